"""`scclip convert-coco-object`: the masks of COCO-Object from those of COCO-Stuff."""

import argparse
from pathlib import Path
from typing import Any

_DESCRIPTION = """\
Make the masks of COCO-Object from those of COCO-Stuff 164k: the 80 things become classes 1 to 80,
everything else background. Reads annotations/val2017/NUMBER.png (the pixel maps as downloaded, not
*_labelTrainIds.png) and writes NUMBER_instanceTrainIds.png beside them, or below --output.
"""

_EPILOG = """\
examples:
  scclip convert-coco-object data/coco_stuff164k
  scclip convert-coco-object data/coco_stuff164k --output data/coco_object
  scclip eval vitb16.scclip --dataset coco-object --root data

Conversion that was interrupted goes on where it stopped.
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "convert-coco-object",
        help="make COCO-Object's masks from COCO-Stuff's, for eval",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("root", metavar="COCO_STUFF", type=Path, help="the folder of COCO-Stuff 164k")
    parser.add_argument(
        "--output", metavar="DIR", type=Path, help="write below this folder, with a link to the images"
    )
    parser.add_argument("--force", action="store_true", help="also write masks that exist already")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert."""
    from scclip_rt.evaluation.coco_object import convert

    written = convert(args.root, args.output, force=args.force, progress=True)
    print(f"{written:,} masks written to {(args.output or args.root) / 'annotations' / 'val2017'}")
    return 0
