#!/usr/bin/env bash
# ncnn 1.0.20261020: ncnn.Mat(array) takes a NumPy array's shape and its memory, but not its strides. A picture turned from
# (height, width, channels) to (channels, height, width), as one does before a network, is a view in the old order, and ncnn
# sees its pixels shuffled. Mat.from_pixels does the same to a picture turned on its side. Integers are taken bit for bit, and
# the Mat's NumPy form calls them float32. Nothing is said. Arrays copied first (numpy.ascontiguousarray) come in right.
# Seen, 0 … 11 as (2, 2, 3), turned: the first channel is 0 3 6 9, and ncnn has 0 1 2 3. The int32 values 1 2 300 come back
# as 1.4e-45 2.8e-45 4.2e-43.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ncnn==1.0.20261020 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import ncnn
import numpy as np


def taken(array: np.ndarray) -> np.ndarray:
    return np.array(ncnn.Mat(array).clone())


picture = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
channels_first = picture.transpose(2, 0, 1)
assert np.array_equal(taken(np.ascontiguousarray(channels_first)), channels_first)
seen = taken(channels_first)
print("channels first: ncnn's first", seen[0].ravel().tolist(), "for", channels_first[0].ravel().tolist())
if np.array_equal(seen, channels_first):
    raise SystemExit("ncnn minds strides now")
assert np.array_equal(seen.ravel(), picture.ravel())


def from_pixels(pixels: np.ndarray) -> np.ndarray:
    height, width, _ = pixels.shape
    return np.array(ncnn.Mat.from_pixels(pixels, ncnn.Mat.PixelType.PIXEL_RGB, width, height)).transpose(1, 2, 0)


upright = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
on_its_side = upright.transpose(1, 0, 2)
assert np.array_equal(from_pixels(np.ascontiguousarray(on_its_side)), on_its_side)
seen = from_pixels(on_its_side)
print("on its side: ncnn's first row", seen[0].astype(int).tolist(), "for", on_its_side[0].tolist())
assert not np.array_equal(seen, on_its_side), "from_pixels minds strides now"

whole = np.array([1, 2, 300], np.int32)
seen = taken(whole)
print("int32:", seen.dtype, seen.tolist(), "for", whole.tolist())
assert seen.dtype == np.float32 and np.array_equal(seen.view(np.int32), whole), "ncnn keeps int32 now"
PYTHON
