"""Write two images, their label maps as `.npy`, and every format: what the readers read. Run by `run.sh`."""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from label_maps import NAMES, results
from scclip_rt.formats import FORMATS, ClassTable, ImageName, open_writer


def main() -> None:
    folder = Path(sys.argv[1])
    (folder / "images").mkdir(parents=True)
    (folder / "names.json").write_text(json.dumps(NAMES))
    images = results()
    for stem, result in images.items():
        noise = np.random.default_rng(0).integers(0, 256, (*result.labels.shape, 3), np.uint8)
        Image.fromarray(noise).save(folder / "images" / f"{stem}.png")
        np.save(folder / f"{stem}.npy", result.labels)
    for name in FORMATS:
        with open_writer(name, folder / name, ClassTable(names=NAMES)) as writer:
            for stem, result in images.items():
                path = folder / "images" / f"{stem}.png"
                writer.add(result, ImageName(stem=stem, file=path.name, path=path))


if __name__ == "__main__":
    main()
