#!/usr/bin/env bash
# av 18.1.0 (PyAV, FFmpeg's libx264): a label map written as H.264 in "gray" and without loss (qp 0) has its labels in the file,
# bit for bit, but as 4:0:0 without a word on the range. The decoder gives it out as yuv420p of limited range, so that
# to_ndarray(format="gray") stretches 16 … 235 to 0 … 255: other labels, and no error. The same frames as lossless H.265 or
# FFV1 come back as they were. The first plane of the decoded frame has the labels.
# Seen, labels 0, 25, 50, 100, 200: 0, 10, 40, 98, 214. 248 of 256 labels change.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON' 2>/dev/null
import av
import numpy as np

labels = np.tile(np.arange(256, dtype=np.uint8), (64, 1))


def decoded(codec: str, options: dict[str, str]) -> av.VideoFrame:
    with av.open("labels.mkv", "w") as file:
        stream = file.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 256, 64, "gray"
        for frame in (av.VideoFrame.from_ndarray(labels, format="gray"), None):
            file.mux(stream.encode(frame))
    with av.open("labels.mkv") as file:
        return next(file.decode(video=0))


for codec, options in (("ffv1", {}), ("libx265", {"x265-params": "lossless=1"})):
    assert np.array_equal(decoded(codec, options).to_ndarray(format="gray"), labels), codec
    print(f"{codec}: the same labels")
frame = decoded("libx264", {"qp": "0"})
plane = np.frombuffer(frame.planes[0], np.uint8).reshape(64, -1)[:, :256]
assert np.array_equal(plane, labels), "the file itself has other labels"
found = frame.to_ndarray(format="gray")
changed = int(np.count_nonzero(found[0] != labels[0]))
print("libx264:", {int(i): int(found[0, i]) for i in (0, 25, 50, 100, 200)}, f"{changed} of 256 labels change")
if changed < 200:
    raise SystemExit("gray H.264 comes back as it was now")
PYTHON
