"""CVAT's SDK checks and draws what the function module gives. URL GRPC IMAGE EXPECTED (the server is not asked)."""

import sys
from types import SimpleNamespace

import numpy as np
from cvat_sdk.masks import decode_mask
from PIL import Image

from scclip_rt.serving.adapters import cvat

_, _, image, expected_file = sys.argv[1:]
expected = np.load(expected_file)
function = cvat.create("demo")
assert [label.name for label in function.spec.labels][:2] == ["grass", "sand"]
picture = Image.open(image)
found = np.full(expected.shape, 255)
height, width = expected.shape
for shape in function.detect(SimpleNamespace(conf_threshold=None, conv_mask_to_poly=False), picture):
    found[decode_mask(shape.points, image_width=width, image_height=height)] = shape.label_id
assert np.array_equal(found, expected)
polygons = function.detect(SimpleNamespace(conf_threshold=0.5, conv_mask_to_poly=True), picture)
assert {shape.type.value for shape in polygons} == {"polygon"}
print("cvat-sdk ok")
