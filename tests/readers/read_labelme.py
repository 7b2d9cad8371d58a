"""labelme's files by its own reader, which opens the image and compares sizes, too."""

from compare import NAMES, WRITTEN, blank, check
from labelme._label_file import read_label_file

maps = {}
for path in (WRITTEN / "labelme").glob("*.json"):
    out = maps[path.stem] = blank(path.stem)
    for shape in read_label_file(str(path)).shapes:
        (left, top), (right, bottom) = shape["points"]
        out[top : bottom + 1, left : right + 1][shape["mask"]] = NAMES.index(shape["label"])
check("labelme", maps)
