#!/usr/bin/env bash
# The library and its tests for 64-bit ARM: built by a cross compiler, run in an emulator. Run cpp/test.sh first: it makes
# what the tests compare with, on this machine's processor.
#
#     cpp/arm.sh [PYTHON_ENVIRONMENT]        (default: .venv; its pip fetches ONNX Runtime's wheel for ARM)
#
# Debian packages: g++-aarch64-linux-gnu, qemu-user and, after `dpkg --add-architecture arm64`, libssl-dev:arm64 and libutf8proc-dev:arm64; for the example also
# libjpeg62-turbo-dev:arm64, libpng-dev:arm64 and libexif-dev:arm64. $QEMU names another emulator: QEMU 7.2 (Debian 12) crashes while ONNX
# Runtime is loaded, 10.0 (Debian 13) does not. Hours, nearly all of them in the last test.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${SCCLIP_CPP_BUILD:-$PWD/build/cpp}
folder=$build/aarch64
python=${1:-.venv}/bin/python
qemu=${QEMU:-qemu-aarch64}

fail() { printf 'arm.sh: %s\n' "$*" >&2; exit 1; }
quietly() { "$@" >"$folder/log" 2>&1 || { tail -n 40 "$folder/log" >&2; exit 1; }; }

[[ -f $build/fixtures/fixtures.json ]] || fail "run cpp/test.sh first"
[[ -x $python ]] || fail "no Python at $python; name an environment that has this package"
command -v aarch64-linux-gnu-g++ >/dev/null || fail "no cross compiler; apt-get install g++-aarch64-linux-gnu"
qemu=$(command -v "$qemu") || fail "no $qemu; apt-get install qemu-user, or name an emulator in QEMU"

# The cross compiler's own C library, unless this machine has one for ARM (Debian's arm64 packages bring it).
[[ -e /lib/ld-linux-aarch64.so.1 ]] || qemu="$qemu;-L;/usr/aarch64-linux-gnu"

mkdir -p "$folder/wheel"
version=$("$python" -c 'import onnxruntime; print(onnxruntime.__version__)')
library=$folder/wheel/onnxruntime/capi/libonnxruntime.so.$version
if [[ ! -f $library ]]; then
    quietly "$python" -m pip install --disable-pip-version-check --no-deps --only-binary=:all: --upgrade \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --target "$folder/wheel" "onnxruntime==$version"
fi
include=$(cpp/headers.sh)
mapfile -t gpu_headers < <(cpp/headers.sh tensorrt "$python")
quietly cmake -S cpp -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Release -DSCCLIP_WERROR=ON -DSCCLIP_BUILD_TESTS=ON -DSCCLIP_TEST_TIMEOUT=36000 \
    -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_LIBRARY_ARCHITECTURE=aarch64-linux-gnu \
    -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
    "-DCMAKE_CROSSCOMPILING_EMULATOR=$qemu" "-DSCCLIP_FIXTURES=$build/fixtures" \
    "-DONNXRUNTIME_INCLUDE_DIR=$include" "-DONNXRUNTIME_LIBRARY=$library" -DSCCLIP_WITH_TENSORRT=ON \
    "-DTENSORRT_INCLUDE_DIR=${gpu_headers[0]}" "-DCUDA_INCLUDE_DIR=${gpu_headers[1]}"
quietly cmake --build "$folder"
quietly ctest --test-dir "$folder" --output-on-failure
printf 'aarch64: %s\n' "$(grep 'tests passed' "$folder/log")"
