#!/usr/bin/env bash
# The tests under AddressSanitizer with UndefinedBehaviorSanitizer, and under ThreadSanitizer, with every backend that
# cpp/test.sh built. Run that first: it also makes what the tests compare with.
#
#     cpp/sanitize.sh [address,undefined | thread]…        (default: both)
set -euo pipefail
cd "$(dirname "$0")/.."
build=${SCCLIP_CPP_BUILD:-$PWD/build/cpp}
[[ -f $build/fixtures/fixtures.json ]] || { echo "sanitize.sh: run cpp/test.sh first" >&2; exit 1; }
(($#)) || set -- address,undefined thread

same=()
for name in ONNXRUNTIME_INCLUDE_DIR ONNXRUNTIME_LIBRARY SCCLIP_WITH_OPENVINO OpenVINO_DIR SCCLIP_WITH_TENSORRT \
    TENSORRT_INCLUDE_DIR CUDA_INCLUDE_DIR; do
    same+=("-D$name=$(sed -n "s/^$name:[A-Z]*=//p" "$build/release/CMakeCache.txt")")
done
# ONNX Runtime and OpenVINO are not instrumented: their own synchronisation is invisible to ThreadSanitizer, so what they
# do is left out. Each line must fit one library, and one that stays loaded.
printf 'called_from_lib:%s.so\n' libonnxruntime libopenvino libtbb >"$build/tsan.supp"
export TBB_ENABLE_SANITIZERS=1 # it would load libraries with RTLD_DEEPBIND, which sanitizers refuse
# OpenVINO's threads outlive the program with what they hold (22 blocks, 1.5 kB after the golden cases).
printf 'leak:%s\n' ov::threading::CPUStreamsExecutor __TBB_internal_allocate_binding_handler tbb::detail::r1::observe \
    >"$build/lsan.supp"
export LSAN_OPTIONS=suppressions=$build/lsan.supp:print_suppressions=0
export SCCLIP_THREAD_IMAGES=200
export ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export TSAN_OPTIONS="suppressions=$build/tsan.supp ignore_noninstrumented_modules=1 halt_on_error=1"
# -O1: at -O2 GCC 12 takes minutes for each file that includes the JSON library.
for sanitizers in "$@"; do
    folder=$build/${sanitizers//,/-}
    mkdir -p "$folder"
    { cmake -S cpp -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS="-O1 -g1" -DSCCLIP_SANITIZE="$sanitizers" \
        -DSCCLIP_BUILD_TESTS=ON -DSCCLIP_BUILD_EXAMPLES=OFF -DSCCLIP_TEST_TIMEOUT=7200 "-DSCCLIP_FIXTURES=$build/fixtures" "${same[@]}" &&
        cmake --build "$folder"; } >"$folder/log" 2>&1 || { tail -n 30 "$folder/log" >&2; exit 1; }
    ctest --test-dir "$folder" --output-on-failure >"$folder/log" 2>&1 || { tail -n 60 "$folder/log" >&2; exit 1; }
    printf '%-20s %s\n' "$sanitizers" "$(grep 'tests passed' "$folder/log")"
done
