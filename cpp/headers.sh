#!/usr/bin/env bash
#     cpp/headers.sh                       ONNX Runtime's
#     cpp/headers.sh tensorrt [PYTHON]     TensorRT's, and on a second line CUDA's
#
# Print a folder with ONNX Runtime's C headers, fetching them once: no wheel ships them, Debian's libonnxruntime-dev does
# (from its release 13 on). The newer release's package is downloaded and unpacked; nothing is installed.
# ONNXRUNTIME_INCLUDE_DIR names headers that are there already.
#
# TensorRT's are in no wheel of NVIDIA's; a third-party wheel of headers has those of 10.14, enough to compile and test
# without a GPU. CUDA's are in Triton's wheel. TENSORRT_INCLUDE_DIR and CUDA_INCLUDE_DIR name others.
set -euo pipefail

release=trixie
cache="${SCCLIP_BUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/scclip-build}/onnxruntime-headers"
header=onnxruntime_c_api.h

fail() { printf 'headers.sh: %s\n' "$*" >&2; exit 1; }

if [[ ${1:-} == tensorrt ]]; then
    python=${2:-python3}
    wheel=kernel-lens==2.0.1
    kept="${SCCLIP_BUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/scclip-build}/tensorrt-headers"
    for tensorrt in "${TENSORRT_INCLUDE_DIR:-}" /usr/include/x86_64-linux-gnu /usr/include/aarch64-linux-gnu \
        "$kept/kernel_lens/include/tensorrt"; do
        [[ -n $tensorrt && -f $tensorrt/NvInferRuntime.h ]] && break
    done
    if [[ ! -f $tensorrt/NvInferRuntime.h ]]; then
        "$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$kept" "$wheel" >&2 ||
            fail "can't install $wheel for TensorRT's headers; set TENSORRT_INCLUDE_DIR"
        [[ -f $tensorrt/NvInferRuntime.h ]] || fail "$wheel has no TensorRT headers; set TENSORRT_INCLUDE_DIR"
    fi
    triton=$("$python" -c 'import importlib.util as u; print(u.find_spec("triton").submodule_search_locations[0])' 2>&1) || triton=
    for cuda in "${CUDA_INCLUDE_DIR:-}" /usr/local/cuda/include "$triton/backends/nvidia/include"; do
        [[ -n $cuda && -f $cuda/cuda.h ]] && break
    done
    [[ -f $cuda/cuda.h ]] || fail "no cuda.h; install CUDA's headers or Triton, or set CUDA_INCLUDE_DIR"
    printf '%s\n%s\n' "$tensorrt" "$cuda"
    exit 0
fi

for folder in "${ONNXRUNTIME_INCLUDE_DIR:-}" /usr/include/onnxruntime "$cache/usr/include/onnxruntime"; do
    if [[ -n $folder && -f $folder/$header ]]; then
        printf '%s\n' "$folder"
        exit 0
    fi
done
command -v apt-get >/dev/null && command -v dpkg >/dev/null ||
    fail "no $header; install ONNX Runtime's headers and set ONNXRUNTIME_INCLUDE_DIR"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir -p "$work"/{sources.d,lists/partial,cache/archives/partial}
codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
[[ -n $codename ]] || fail "this system's release has no code name; set ONNXRUNTIME_INCLUDE_DIR"

# This system's own sources with the release's name replaced; only Debian's main archive, not its updates.
if [[ -f /etc/apt/sources.list.d/debian.sources ]]; then
    awk -v RS= -v ORS='\n\n' '/^(.*\n)?Types:/ && !/security/' /etc/apt/sources.list.d/debian.sources |
        sed -E "/^Suites:/{s/$codename-[a-z]+//g;s/$codename/$release/g}" >"$work/sources.d/$release.sources"
elif [[ -s /etc/apt/sources.list ]]; then
    grep -E "^deb .* $codename " /etc/apt/sources.list | sed "s/ $codename / $release /" >"$work/sources.d/$release.list"
else
    fail "no list of package sources to derive one for $release from; set ONNXRUNTIME_INCLUDE_DIR"
fi
cat >"$work/apt.conf" <<CONF
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$work/sources.d";
Dir::State::lists "$work/lists";
Dir::Cache "$work/cache";
APT::Sandbox::User "root";
CONF
export APT_CONFIG="$work/apt.conf"
apt-get update -qq >"$work/log" 2>&1 || fail "can't read the $release package lists: $(tail -n 1 "$work/log")"
(cd "$work" && apt-get download -qq libonnxruntime-dev >"$work/log" 2>&1) ||
    fail "can't download libonnxruntime-dev: $(tail -n 1 "$work/log")"
mkdir -p "$cache"
dpkg -x "$work"/libonnxruntime-dev_*.deb "$cache"
[[ -f $cache/usr/include/onnxruntime/$header ]] || fail "libonnxruntime-dev has no $header any more"
printf '%s\n' "$cache/usr/include/onnxruntime"
