"""The `scclip` command: parses, builds a configuration, calls the library.

Each command is a module with `add_parser(subparsers)` and `run(args) -> exit code`.
"""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from scclip_rt import __version__
from scclip_rt.cli import (
    batch,
    bench,
    convert_coco_object,
    embed,
    eval,  # noqa: A004 (the command's name)
    inspect,
    segment,
    serve,
)
from scclip_rt.errors import ScclipError

__all__ = ["build_parser", "guard", "leave", "main", "run"]

COMMANDS = (segment, batch, embed, inspect, serve, eval, bench, convert_coco_object)
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130

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

A bundle is a directory that `scclip-export` makes from a CLIP checkpoint.
Exit codes: 0 done, 2 an error told in one line, 130 interrupted.
"""


class _Parser(argparse.ArgumentParser):
    """Errors in one line, like every other error of the command."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_ERROR, f"scclip: error: {message} (see `{self.prog} --help`)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command."""
    parser = _Parser(
        prog="scclip",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"scclip-rt {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit code: 0, 2 or 130.
    """

    def action() -> int:
        args: Any = build_parser().parse_args(arguments)
        return int(args.run(args))

    return guard("scclip", action)


def guard(program: str, action: Callable[[], int]) -> int:
    """Run a command's action; whatever a user can cause ends in one line on standard error.

    Args:
        program: the name that begins the line.
        action: does the work and returns an exit code.

    Returns:
        The exit code: that of `action`, or 2 or 130.
    """
    try:
        code = action()
        sys.stdout.flush()  # a closed pipe shows here rather than in the interpreter's last breath
        return code
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has seen enough (`| head`). What is still buffered must not raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ScclipError, OSError, MemoryError) as error:
        print(f"{program}: error: {_one_line(error)}", file=sys.stderr)
        return EXIT_ERROR


def _one_line(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "out of memory; lower --batch, --short-side or --max-pixels, or give fewer images at a time"
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        hint = "; free some space there" if error.errno == errno.ENOSPC else ""
        return f"{place}{error.strerror or error}{hint}"
    return " ".join(str(error).split())


def main() -> NoReturn:
    """Entry point of the `scclip` script."""
    leave(run())


def leave(code: int) -> NoReturn:
    """Exit with `code`; at once after Ctrl-C."""
    if code == EXIT_INTERRUPTED:
        # The batch in the encoder can't be stopped and would hold a normal exit up for seconds.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
