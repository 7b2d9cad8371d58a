#!/usr/bin/env bash
# Fuzz the readers of bundle.json, vocabularies, ONNX files, engine sidecars, kernels.json, class names and tokenizers,
# with address and undefined-behaviour sanitizers.
#
#     cpp/fuzz.sh [SECONDS ["NAME…"]]        (default 60, all at the same time; needs clang and its sanitizer runtime)
#
# It starts from cpp/fuzz/corpus.tar.xz; inputs that reach new code are kept in the build folder's fuzz/found, findings in fuzz.
# To keep the smallest set that reaches as much: fuzz/fuzz_NAME -merge=1 corpus/NAME found/NAME.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
build=${SCCLIP_CPP_BUILD:-$PWD/build/cpp}/fuzz
targets=(${2:-manifest vocabulary onnx engine kernels names tokenizer})
mkdir -p "$build"
tar -xJf cpp/fuzz/corpus.tar.xz -C "$build"
command -v clang++ >/dev/null || { echo "fuzz.sh: install clang and libclang-rt-dev first" >&2; exit 1; }
# -O1: the JSON library under two sanitizers takes clang minutes at -O2.
cmake -S cpp -B "$build" -G Ninja -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=None \
    -DSCCLIP_WITH_ONNXRUNTIME=OFF -DSCCLIP_BUILD_EXAMPLES=OFF -DSCCLIP_BUILD_FUZZERS=ON -DBUILD_SHARED_LIBS=OFF \
    -DCMAKE_CXX_FLAGS="-O1 -g1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined" >"$build/log" 2>&1 &&
    cmake --build "$build" --target "${targets[@]/#/fuzz_}" >>"$build/log" 2>&1 || { tail -n 30 "$build/log" >&2; exit 1; }
running=()
for target in "${targets[@]}"; do
    # What an earlier run found goes on from where it was.
    mkdir -p "$build/found/$target"
    "$build/fuzz/fuzz_$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
        -artifact_prefix="$build/$target-" -print_final_stats=1 "$build/found/$target" "$build/corpus/$target" \
        >"$build/$target.log" 2>&1 &
    running+=($!)
done
status=0
for job in "${running[@]}"; do wait "$job" || status=1; done
for target in "${targets[@]}"; do
    printf '%-12s %s %s\n' "$target" "$(grep -Eo 'Done [0-9]+ runs in [0-9]+ second|ERROR.*|SUMMARY.*' "$build/$target.log" | tr '\n' ' ')" \
        "$(grep -Eo 'cov: [0-9]+ ft: [0-9]+' "$build/$target.log" | tail -n 1)"
done
exit $status
