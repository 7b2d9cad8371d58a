#!/usr/bin/env bash
# The tests under AddressSanitizer with UndefinedBehaviorSanitizer, and under ThreadSanitizer. Run cpp/test.sh first: it
# makes what the tests compare with.
#
#     cpp/sanitize.sh [address,undefined | thread]…        (default: both)
set -euo pipefail
cd "$(dirname "$0")/.."
build=${SCCLIP_CPP_BUILD:-$PWD/build/cpp}
[[ -f $build/fixtures/fixtures.json ]] || { echo "sanitize.sh: run cpp/test.sh first" >&2; exit 1; }
include=$(cpp/headers.sh)
library=$(sed -n 's/^ONNXRUNTIME_LIBRARY:[A-Z]*=//p' "$build/release/CMakeCache.txt")
(($#)) || set -- address,undefined thread

# ONNX Runtime is not instrumented: its own synchronisation is invisible to ThreadSanitizer, so calls into it are left out.
printf 'called_from_lib:libonnxruntime.so\n' >"$build/tsan.supp"
export ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export TSAN_OPTIONS="suppressions=$build/tsan.supp ignore_noninstrumented_modules=1 halt_on_error=1"
# -O1: at -O2 GCC 12 takes minutes for each file that includes the JSON library.
for sanitizers in "$@"; do
    folder=$build/${sanitizers//,/-}
    mkdir -p "$folder"
    { cmake -S cpp -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS="-O1 -g1" -DSCCLIP_SANITIZE="$sanitizers" \
        -DSCCLIP_BUILD_TESTS=ON -DSCCLIP_BUILD_EXAMPLES=OFF "-DSCCLIP_FIXTURES=$build/fixtures" \
        "-DONNXRUNTIME_INCLUDE_DIR=$include" "-DONNXRUNTIME_LIBRARY=$library" &&
        cmake --build "$folder"; } >"$folder/log" 2>&1 || { tail -n 30 "$folder/log" >&2; exit 1; }
    ctest --test-dir "$folder" --output-on-failure >"$folder/log" 2>&1 || { tail -n 60 "$folder/log" >&2; exit 1; }
    printf '%-20s %s\n' "$sanitizers" "$(grep 'tests passed' "$folder/log")"
done
