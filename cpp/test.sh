#!/usr/bin/env bash
# Everything about the C++ library from a clean checkout: headers, build, tests, install, consumer project, C example.
#
#     cpp/test.sh [PYTHON_ENVIRONMENT] [BUNDLE]
#
# PYTHON_ENVIRONMENT (or $PYTHON: an interpreter or an environment; default: .venv) has this package with the extras
# `export` and `dev`. BUNDLE is the golden tests' bundle instead of the tiny model's; the tiny model is exported by every
# method once, and kept.
# The build is in build/cpp, or $SCCLIP_CPP_BUILD. On a GPU: $SCCLIP_GPU_BUNDLE (README.md, "On your GPU").
set -euo pipefail
cd "$(dirname "$0")/.."

started=$SECONDS
build=${SCCLIP_CPP_BUILD:-$PWD/build/cpp}
environment=${1:-${PYTHON:-.venv}}
bundle=${2:-}
log=$build/test.log

fail() {
    printf 'cpp/test.sh: %s\n' "$*" >&2
    exit 1
}
quietly() {
    local what=$1
    shift
    "$@" >"$log" 2>&1 || {
        tail -n 40 "$log" >&2
        fail "$what failed; the end of its output is above, all of it in $log"
    }
}

mkdir -p "$build"
if [[ -d $environment ]]; then python=$environment/bin/python; else python=$environment; fi
python=$(command -v "$python") || fail "no Python at $environment; name an environment that has this package"
"$python" -c 'import scclip_rt, onnxruntime, onnx' 2>"$log" ||
    fail "$python lacks scclip_rt, onnxruntime or onnx: $(tail -n 1 "$log")"

# Debian packages: installed where that is possible, else named.
packages=(cmake g++ ninja-build nlohmann-json3-dev libssl-dev libutf8proc-dev doctest-dev libcli11-dev libexif-dev libjpeg-dev libpng-dev libopencv-core-dev)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if ((${#missing[@]})); then
    sudo=
    if [[ $(id -u) != 0 ]]; then
        sudo -n true 2>/dev/null || fail "install first: apt-get install ${missing[*]} (or run this as root)"
        sudo="sudo -n"
    fi
    quietly "installing ${missing[*]}" bash -c "$sudo apt-get install -y -qq ${missing[*]} ||
        { $sudo apt-get update -qq && $sudo apt-get install -y -qq ${missing[*]}; }"
fi

include=$(cpp/headers.sh) || fail "ONNX Runtime's headers are not to be had (see above)"
library=$("$python" -c 'import onnxruntime, pathlib
print(next((pathlib.Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.1*")))') ||
    fail "the onnxruntime wheel of $python has no libonnxruntime.so"

openvino=$("$python" -c 'import openvino, pathlib; print(pathlib.Path(openvino.__file__).parent / "cmake")' 2>/dev/null) ||
    printf 'cpp/test.sh: %s has no openvino: that backend is neither built nor tested\n' "$python" >&2

mapfile -t gpu_headers < <(cpp/headers.sh tensorrt "$python")
((${#gpu_headers[@]} == 2)) || fail "the headers of TensorRT and CUDA are not to be had (see above)"

fixtures=$build/fixtures
quietly "configuring" cmake -S cpp -B "$build/release" -G Ninja -DCMAKE_BUILD_TYPE=Release -DSCCLIP_WERROR=ON \
    -DSCCLIP_BUILD_TESTS=ON "-DSCCLIP_FIXTURES=$fixtures" "-DONNXRUNTIME_INCLUDE_DIR=$include" \
    "-DONNXRUNTIME_LIBRARY=$library" "-DCMAKE_INSTALL_PREFIX=$build/installed" \
    "-DSCCLIP_WITH_OPENVINO=$([[ -n $openvino ]] && echo ON || echo OFF)" "-DOpenVINO_DIR=$openvino" -DSCCLIP_WITH_TENSORRT=ON \
    "-DTENSORRT_INCLUDE_DIR=${gpu_headers[0]}" "-DCUDA_INCLUDE_DIR=${gpu_headers[1]}" \
    "-DSCCLIP_GPU_BUNDLE=${SCCLIP_GPU_BUNDLE:-}" "-DSCCLIP_GPU_VOCABULARY=${SCCLIP_GPU_VOCABULARY:-}"
quietly "building" cmake --build "$build/release"
built=$SECONDS

# The exported bundles, one a method, are kept until the exporter, the kernels or the weights change.
key=$(cat $(git ls-files export kernels tests/synthetic.py scclip_rt/bundle/schema) | sha256sum)
if [[ $(cat "$build/bundle/key" 2>/dev/null) != "$key" ]]; then
    rm -rf "$build/bundle"
    mkdir -p "$build/bundle"
    quietly "exporting the tiny bundles" "$python" cpp/tests/make_fixtures.py --export-only "$build/bundle"
    printf '%s' "$key" >"$build/bundle/key"
fi
bundle=${bundle:-$build/bundle/tiny.scclip}
quietly "computing what Python says" "$python" cpp/tests/make_fixtures.py "$fixtures" --bundle "$bundle" \
    --methods "$build/bundle"
quietly "a test" ctest --test-dir "$build/release" --output-on-failure
tests=$(grep -E 'tests passed' "$log")

rm -rf "$build/installed"
quietly "installing" cmake --install "$build/release"
quietly "configuring the consumer project" cmake -S cpp/consumer -B "$build/consumer" -G Ninja \
    "-DCMAKE_PREFIX_PATH=$build/installed"
quietly "building the consumer project" cmake --build "$build/consumer"
vocabulary=$fixtures/tiny_six.safetensors
consumer=$("$build/consumer/consumer" "$bundle" "$vocabulary") || fail "the consumer project failed"
"$python" - "$build/scene" <<'SCENE'
import sys
sys.path.insert(0, "tests")
from PIL import Image
from synthetic import scene
image = Image.fromarray(scene(375, 500, 1))
image.save(sys.argv[1] + ".png"), image.save(sys.argv[1] + ".ppm")
SCENE
quietly "the C example" "$build/release/examples/scclip-segment-c" "$bundle" "$vocabulary" "$build/scene.ppm"
commands=$("$python" cpp/tests/compare_commands.py "$build/installed/bin/scclip-segment-cpp" "$bundle" "$vocabulary" \
    "$build/scene.png" 2>"$log") || { tail -n 20 "$log" >&2; fail "scclip-segment-cpp and scclip segment disagree"; }

printf 'cpp: %s; consumer: %s; commands: %s; %d s (build %d s)\n' \
    "$tests" "$consumer" "$commands" $((SECONDS - started)) $((built - started))
