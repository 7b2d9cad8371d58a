"""`scclip convert-coco-object`: the masks of COCO-Object from those of COCO-Stuff."""

import argparse
from typing import Any

from scclip_rt.cli.parsers import Options, add_command

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
    parser = add_command(
        subparsers,
        "convert-coco-object",
        run,
        "make COCO-Object's masks from COCO-Stuff's, for eval",
        _DESCRIPTION,
        _EPILOG,
    )
    options = Options(parser)
    options.file("root", "COCO_STUFF", "the folder of COCO-Stuff 164k")
    options.file("--output", "DIR", "write below this folder, with a link to the images")
    options.flag("--force", "also write masks that exist already")


def run(args: argparse.Namespace) -> int:
    """Convert."""
    from scclip_rt.evaluation.coco_object import convert

    written = convert(args.root, args.output, force=args.force, progress=True)
    print(f"{written:,} masks written to {(args.output or args.root) / 'annotations' / 'val2017'}")
    return 0
