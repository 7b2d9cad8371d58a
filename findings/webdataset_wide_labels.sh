#!/usr/bin/env bash
# webdataset 1.0.2 (Pillow 13.0.0): label maps of more than 256 classes are PNGs of 16 bits. Every form of its image decoder
# makes 8 bits of them first, so that each class above 255 becomes 255, without a word; "l" gives 0 to 1 of that.
# Seen, labels 0, 200, 300, 800: "l8" and "pill" give 0, 200, 255, 255. Without decode() the bytes are there, and Pillow reads
# them right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check webdataset==1.0.2 pillow==13.0.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import io
import tarfile

import numpy as np
import webdataset
from PIL import Image

labels = np.array([[0, 200], [300, 800]], np.uint16)
png = io.BytesIO()
Image.fromarray(labels).save(png, "PNG")
with tarfile.open("shard.tar", "w") as tar:
    member = tarfile.TarInfo("0001.labels.png")
    member.size = len(png.getvalue())
    tar.addfile(member, io.BytesIO(png.getvalue()))


def read(*form: str) -> np.ndarray:
    samples = webdataset.WebDataset("shard.tar", shardshuffle=False)
    value = next(iter(samples.decode(*form) if form else samples))["labels.png"]
    return np.asarray(Image.open(io.BytesIO(value)) if isinstance(value, bytes) else value)


assert np.array_equal(read(), labels)
for form in ("l8", "pill"):
    found = read(form)
    print(f"{form}:", found.ravel().tolist(), "for", labels.ravel().tolist())
    if found.ravel().tolist() != [0, 200, 255, 255]:
        raise SystemExit("webdataset keeps 16 bits now")
PYTHON
