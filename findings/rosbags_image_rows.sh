#!/usr/bin/env bash
# rosbags-image 0.10.4: a ROS image whose rows are padded (step is more than width x bytes, as cameras and GPUs align rows) comes
# out sheared, with the padding as pixels: message_to_cvimage passes over step. And a compressed label map of 16 bits (PNG)
# comes out with 8: it is read with cv2.IMREAD_ANYCOLOR, so that every 256 classes become one. Neither says anything.
# rerun-sdk 0.41.0 (rerun mcap convert) takes the padding off, and Pillow 13.0.0 reads the same PNG's 16 bits.
# Seen, labels 0 … 23 in rows of 6 with step 8: the second row is pad pad 6 7 8 9. Labels 0, 200, 300, 800: 0 0 1 3.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check rosbags-image==0.10.4 rosbags==0.11.9 numpy==2.4.6 \
    pillow==13.0.0 mcap==1.6.0 rerun-sdk==0.41.0 opencv-python-headless==5.0.0.93
cd "$folder"
venv/bin/python - <<'PYTHON'
import io
import subprocess

import numpy as np
from mcap.writer import Writer
from PIL import Image
from rosbags.image import message_to_cvimage
from rosbags.typesys import Stores, get_typestore

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
store = get_typestore(Stores.ROS2_HUMBLE)
types = store.types
header = types["std_msgs/msg/Header"](stamp=types["builtin_interfaces/msg/Time"](sec=1, nanosec=0), frame_id="camera")

labels = np.arange(24, dtype=np.uint8).reshape(4, 6)
rows = np.full((4, 8), 99, np.uint8)
rows[:, :6] = labels
message = types[IMAGE](header=header, height=4, width=6, encoding="mono8", is_bigendian=0, step=8, data=rows.ravel())
sheared = message_to_cvimage(message)
print("padded rows: row 1", sheared[1].tolist(), "for", labels[1].tolist())
if np.array_equal(sheared, labels):
    raise SystemExit("rosbags-image minds step now")
assert np.array_equal(sheared.ravel(), rows.ravel()[:24])

with open("labels.mcap", "wb") as file:
    writer = Writer(file)
    writer.start(profile="ros2")
    definition, _ = store.generate_msgdef(IMAGE, ros_version=2)
    schema = writer.register_schema(name=IMAGE, encoding="ros2msg", data=definition.encode())
    channel = writer.register_channel(topic="/labels", message_encoding="cdr", schema_id=schema)
    writer.add_message(channel, log_time=1, publish_time=1, data=bytes(store.serialize_cdr(message, IMAGE)))
    writer.finish()
subprocess.run(
    ["venv/bin/rerun", "mcap", "convert", "labels.mcap", "-o", "labels.rrd"], check=True, capture_output=True
)
printed = subprocess.run(
    ["venv/bin/rerun", "rrd", "print", "-vvv", "labels.rrd"], check=True, capture_output=True, text=True
).stdout
assert f"[{labels.ravel().tolist()}]" in printed, "rerun reads it otherwise now"

wide = np.array([[0, 200], [300, 800]], np.uint16)
png = io.BytesIO()
Image.fromarray(wide).save(png, "PNG")
data = np.frombuffer(png.getvalue(), np.uint8)
assert np.array_equal(np.asarray(Image.open(png)), wide)
narrow = message_to_cvimage(types[COMPRESSED](header=header, format="mono16; png compressed mono16", data=data))
print("compressed 16 bits:", narrow.dtype, narrow.ravel().tolist(), "for", wide.ravel().tolist())
if np.array_equal(narrow, wide):
    raise SystemExit("rosbags-image keeps 16 bits now")
assert narrow.ravel().tolist() == [0, 0, 1, 3], narrow
PYTHON
