"""The data set by FiftyOne, through its database."""

from pathlib import Path

import fiftyone
import numpy as np
from compare import NAMES, UNLABELLED, WRITTEN, check

dataset = fiftyone.Dataset.from_dir(
    dataset_dir=str(WRITTEN / "fiftyone"), dataset_type=fiftyone.types.FiftyOneDataset, progress=False
)
assert list(dataset.default_mask_targets.values()) == NAMES
maps = {}
for sample in dataset:
    assert Path(sample.filepath).is_file()
    values = sample.segmentation.get_mask().astype(int)
    maps[Path(sample.filepath).stem] = np.where(values == 0, UNLABELLED, values - 1)
dataset.delete()
check("fiftyone", maps)
