#!/usr/bin/env bash
# Fuzz the readers of bundle.json, vocabularies and ONNX files, with address and undefined-behaviour sanitizers.
#
#     cpp/fuzz.sh [SECONDS]        (default 60, all three at the same time; needs clang and its sanitizer runtime)
#
# Inputs that reach new code are added to a copy of cpp/fuzz/corpus in the build folder; findings are printed and kept
# there.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
running=()
build=${SCCLIP_CPP_BUILD:-$PWD/build/cpp}/fuzz
mkdir -p "$build"
command -v clang++ >/dev/null || { echo "fuzz.sh: install clang and libclang-rt-dev first" >&2; exit 1; }
cmake -S cpp -B "$build" -G Ninja -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    -DSCCLIP_WITH_ONNXRUNTIME=OFF -DSCCLIP_BUILD_EXAMPLES=OFF -DSCCLIP_BUILD_FUZZERS=ON -DBUILD_SHARED_LIBS=OFF \
    -DCMAKE_CXX_FLAGS="-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined" >"$build/log" 2>&1 &&
    cmake --build "$build" --target fuzz_manifest fuzz_vocabulary fuzz_onnx >>"$build/log" 2>&1 || { tail -n 30 "$build/log" >&2; exit 1; }
cp -rn cpp/fuzz/corpus "$build/"
for target in manifest vocabulary onnx; do
    "$build/fuzz/fuzz_$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
        -artifact_prefix="$build/$target-" -print_final_stats=1 "$build/corpus/$target" >"$build/$target.log" 2>&1 &
    running+=($!)
done
status=0
for job in "${running[@]}"; do wait "$job" || status=1; done
for target in manifest vocabulary onnx; do
    printf '%-12s %s\n' "$target" "$(grep -E 'number_of_executed_units|ERROR|SUMMARY' "$build/$target.log" | tr '\n' ' ')"
done
exit $status
