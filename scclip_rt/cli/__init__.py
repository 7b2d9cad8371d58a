"""The `scclip` command: parses, builds a configuration, calls the library.

Each command is a module with `add_parser(subparsers)` and `run(args) -> exit code`.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from scclip_rt import __version__
from scclip_rt.cli.guard import EXIT_ERROR, EXIT_INTERRUPTED, Parser, guard, leave
from scclip_rt.errors import install

__all__ = ["EXIT_ERROR", "EXIT_INTERRUPTED", "build_parser", "guard", "leave", "main", "run"]

COMMANDS = (
    "segment",
    "batch",
    "embed",
    "vocabulary",
    "inspect",
    "bake",
    "convert",
    "serve",
    "eval",
    "compare-methods",
    "bench",
    "tune",
    "cache",
    "convert-coco-object",
)

_DESCRIPTION = """\
Open-vocabulary segmentation with SC-CLIP bundles: name the classes, get a label map.
No torch, no training.
"""

_EPILOG = """\
examples:
  scclip segment vitb16.scclip photo.jpg --classes "sky; grass, lawn; dog, puppy" --output out
  scclip embed vitb16.scclip --classes classes.txt --output classes.safetensors
  scclip inspect vitb16.scclip
  scclip serve vitb16.scclip --port 8000
  scclip eval vitb16.scclip --dataset voc21 --root /data
  scclip bench vitb16.scclip@fp32 vitb16.scclip@int8

A bundle is a directory that `scclip-export` makes from a CLIP checkpoint, or one of the Hugging
Face Hub, hf://OWNER/NAME@REVISION.
Exit codes: 0 done, 2 an error told in one line with its code (docs/errors.md), 130 interrupted,
143 terminated.
"""


def build_parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of the whole command; with arguments that begin with a command's name, of that command alone.

    Its module is the only one that is imported then: the others take longer than a small image.
    """
    parser = Parser(
        prog="scclip",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", "-V", action="version", version=f"scclip-rt {__version__}")
    parser.add_argument(
        "--print-completion",
        metavar="SHELL",
        nargs=1,
        action=_Completion,
        help="print the completion script of bash, zsh or tcsh; needs shtab (extra `completion`)",
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    named = [name for name in COMMANDS if name in arguments[:1]]
    for name in named or COMMANDS:
        module: Any = importlib.import_module(f"scclip_rt.cli.{name.replace('-', '_')}")
        module.add_parser(subparsers)
    return parser


class _Completion(argparse.Action):
    """Print what the shell needs to complete options; `eval "$(scclip --print-completion bash)"`."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: object,  # noqa: ARG002
        values: Any,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        """Print and exit."""
        try:
            import shtab
        except ImportError:
            parser.error(f"--print-completion needs shtab: {install('completion')}")
        if values[0] not in shtab.SUPPORTED_SHELLS:
            parser.error(f"--print-completion knows {', '.join(shtab.SUPPORTED_SHELLS)}; got {values[0]!r}")
        print(shtab.complete(parser, shell=values[0]))
        parser.exit()


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit code: 0, 2 or 130.
    """

    def action() -> int:
        words = sys.argv[1:] if arguments is None else list(arguments)
        args: Any = build_parser(words).parse_args(words)
        return int(args.run(args))

    return guard("scclip", action)


def main() -> NoReturn:
    """Entry point of the `scclip` script."""
    leave(run())
