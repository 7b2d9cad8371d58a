"""Thousands of images in several threads, with changing vocabularies and broken files between them.

    python tests/stress/soak.py [--images 3000] [--threads 8]

Every result is held against the labels that the same image and vocabulary gave alone; broken images must give an
ImageError and nothing else. At the end memory, threads and open files must be where they were after the first tenth.
Exit code 1 if anything of it fails.
"""

import argparse
import os
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from scclip_rt import ImageError, Segmenter
from scclip_rt.demo.scenes import test_scene

VOCABULARIES = (
    ["grass", "sky", "water"],
    ["brick", "wood, planks", "sand", "snow"],
    ["zebra"],
    ["background", "tiles"],
)
BROKEN = (
    b"",
    b"\x89PNG\r\n\x1a\n" + bytes(30),
    b"%!PS-Adobe-3.0 EPSF-3.0\n",
    b"GIF89a" + b"\xff" * 20,
    bytes(100),
)
SIZES = ((160, 200), (97, 130), (224, 224), (40, 60))


def state() -> dict[str, int]:
    """Resident bytes, threads and open files of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "MB": pages * os.sysconf("SC_PAGE_SIZE") >> 20,
        "threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=8)
    args = parser.parse_args()
    images = [
        np.asarray(Image.fromarray(test_scene(number).image).resize(size[::-1]))
        for number, size in enumerate(SIZES)
    ]
    base = Segmenter("demo", threads=1, short_side=224)
    segmenters = [base.with_classes(names) for names in VOCABULARIES]
    wanted = {(v, i): s(image).labels for v, s in enumerate(segmenters) for i, image in enumerate(images)}
    shared = base.with_classes(VOCABULARIES[0])
    outcomes: Counter[str] = Counter()
    states: list[dict[str, int]] = []

    def one(number: int) -> str:
        vocabulary, image = number % len(VOCABULARIES), (number // 3) % len(images)
        if number % 7 == 0:
            try:
                segmenters[vocabulary](BROKEN[number % len(BROKEN)])
            except ImageError:
                return "refused"
            return "a broken image passed"
        if number % 11 == 0:  # others use it while it changes: either list is right, a mixture is not
            shared.set_classes(VOCABULARIES[vocabulary])
            result = shared(images[image])
            known = [v for v, names in enumerate(VOCABULARIES) if len(names) == len(result.classes)]
            return "right" if any(np.array_equal(result.labels, wanted[v, image]) for v in known) else "wrong"
        result = segmenters[vocabulary].with_classes(VOCABULARIES[vocabulary])(images[image])
        return "right" if np.array_equal(result.labels, wanted[vocabulary, image]) else "wrong"

    with ThreadPoolExecutor(args.threads) as pool:
        for number, outcome in enumerate(pool.map(one, range(args.images)), 1):
            outcomes[outcome] += 1
            if number % max(1, args.images // 10) == 0:
                states.append(state())
                print(f"{number:,} images: {dict(outcomes)}, {states[-1]}", flush=True)
    first, last = states[0], states[-1]
    steady = last["MB"] <= first["MB"] * 1.2 + 64 and last["files"] <= first["files"] + 2
    steady = steady and last["threads"] <= first["threads"] + 2
    sys.exit(0 if steady and set(outcomes) <= {"right", "refused"} else 1)


if __name__ == "__main__":
    main()
