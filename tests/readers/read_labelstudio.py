"""Label Studio's tasks by label-studio-sdk: its decoder of brush masks, and its check of predictions."""

import json
from pathlib import Path

from compare import NAMES, WRITTEN, blank, check
from label_studio_sdk.converter.brush import decode_rle
from label_studio_sdk.label_interface import LabelInterface

interface = LabelInterface((WRITTEN / "labelstudio" / "labelstudio.xml").read_text())
maps = {}
for task in json.loads((WRITTEN / "labelstudio" / "labelstudio.json").read_text()):
    stem = Path(task["data"]["image"].split("?d=")[1]).stem
    out = maps[stem] = blank(stem)
    for prediction in task["predictions"]:
        errors = interface.validate_prediction(prediction, return_errors=True)
        assert not errors, errors
        for region in prediction["result"]:
            values = decode_rle(region["value"]["rle"]).reshape(*out.shape, 4)
            out[values[..., 3] > 0] = NAMES.index(region["value"]["brushlabels"][0])
check("label-studio-sdk", maps)
