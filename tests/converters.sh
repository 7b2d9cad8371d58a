#!/usr/bin/env bash
# A baked file in every engine's format, each in an environment of its own: what converts, labels in the engine's own
# runtime, size and time beside ONNX Runtime. Writes one table, and its rows to the file that is given.
# Needs the package with its extras `export` and `bake` in PYTHON (default: .venv/bin/python), whose packages each
# environment sees after its own. RKNN needs an old torch: run it where `scclip-rt[rknn]` is installed.
#
#   tests/converters.sh benchmarks/results/engines.json              all
#   tests/converters.sh benchmarks/results/engines.json litert ncnn  these
#
# ROUNDS is how many rounds are timed (15), ENVIRONMENTS a folder that keeps the environments between runs.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${PYTHON:-.venv/bin/python}")
output=${1:?the file for the rows}
shift
targets=("$@")
[[ ${#targets[@]} -gt 0 ]] || targets=(openvino mnn mnn-int8 litert executorch coreml-here ncnn)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
environments=${ENVIRONMENTS:-$folder}
export PYTHONPATH="$PWD:$PWD/export:$PWD/kernels:$PWD/tests"

declare -A packages=(
    [openvino]="openvino==2026.4.1"
    [mnn]="MNN==3.6.1"
    [mnn-int8]="MNN==3.6.1"
    [litert]="litert-torch==0.10.0 ai-edge-litert==2.3.0"
    [executorch]="executorch==1.5.1"
    [coreml-here]="coremltools==9.0"
    [ncnn]="ncnn==1.0.20261020 pnnx==20261020"
)

rows=()
for target in "${targets[@]}"; do
    environment=$environments/$target
    if [[ ! -x $environment/bin/python ]]; then
        "$python" -m venv "$environment"
        "$python" -c 'import site; print(site.getsitepackages()[0])' \
            >"$("$environment/bin/python" -c 'import site; print(site.getsitepackages()[0])')/zz_beside.pth"
        # shellcheck disable=SC2086  # several packages
        "$environment/bin/pip" install --quiet --disable-pip-version-check ${packages[$target]}
    fi
    "$environment/bin/python" -m benchmarks.cpu.engines --targets "$target" --rounds "${ROUNDS:-15}" \
        --json "$folder/$target.json" >"$folder/$target.txt"
    rows+=("$folder/$target.json")
done
"$python" -m benchmarks.cpu.engines --merge "${rows[@]}" --json "$output"
