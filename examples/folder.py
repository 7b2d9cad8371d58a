"""Segment a folder of images, and say which classes are in it.

    python examples/folder.py demo scclip_rt/demo out
    python examples/folder.py vitb16.scclip photos out --classes "sky; grass, lawn; dog, puppy"

Images are read, encoded and written at the same time, and memory stays bounded. One that can't be read is named, and
the rest goes on.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from scclip_rt import ImageError, Segmenter


def main() -> int:
    """Parse, segment, report; 1 if an image could not be read."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", help="bundle directory, or demo for the packaged one")
    parser.add_argument("images", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--classes", help='names: "sky; grass, lawn"; default: those of the bundle')
    args = parser.parse_args()

    segment = Segmenter(args.bundle, classes=args.classes)
    paths = sorted(p for p in args.images.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    found: Counter[str] = Counter()
    failed = 0
    # What the stream yields is in the order of `paths`: a result, or the error of that image.
    for path, result in zip(paths, segment.stream(paths, errors="yield"), strict=True):
        if isinstance(result, ImageError):
            print(f"skipped {path}: {result}", file=sys.stderr)
            failed += 1
            continue
        result.save(args.output, force=True)
        found.update(result.shares())
    for name, total in found.most_common():
        print(f"{total / max(len(paths) - failed, 1):6.1%}  {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
