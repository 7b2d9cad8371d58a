"""Commands and their options, each declared in one call."""

import argparse
import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scclip_rt.errors import OptionError
from scclip_rt.limits import parse_number, parse_size


def add_command(
    subparsers: "argparse._SubParsersAction[Any]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    description: str,
    epilog: str,
) -> argparse.ArgumentParser:
    """Register a command that `run` carries out; its texts keep their lines."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_bundle(parser: argparse.ArgumentParser, **more: Any) -> None:
    """The positional BUNDLE."""
    about = "bundle directory, or demo for the packaged one"
    parser.add_argument("bundle", metavar="BUNDLE", help=about, **more)


def number(name: str) -> Callable[[str], int | float]:
    """A `type=` for argparse: the number that `scclip_rt.limits` allows for an option."""

    def parse(text: str) -> int | float:
        try:
            return parse_number(name, text)
        except OptionError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def size(*, square: bool = False) -> Callable[[str], tuple[int, int]]:
    """A `type=` for argparse: `HxW` in pixels, or with `square` also N."""

    def parse(text: str) -> tuple[int, int]:
        try:
            return parse_size(text, square=square)
        except OptionError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


class Options:
    """The options of a parser, or of one titled group of it.

    `names` are those of one option with spaces between (`--output -o`), `about` is its help, `more` is argparse's.
    """

    def __init__(
        self, parser: argparse.ArgumentParser, title: str | None = None, description: str | None = None
    ) -> None:
        group = parser if title is None else parser.add_argument_group(title, description)
        self._target: argparse._ActionsContainer = group

    def alternatives(self, *, required: bool) -> "Options":
        """Options of which a command line may give one."""
        group = copy.copy(self)
        group._target = self._target.add_mutually_exclusive_group(required=required)
        return group

    def text(self, names: str, metavar: str | tuple[str, ...], about: str, **more: Any) -> None:
        """One that takes a text, or what `type` makes of it."""
        self._target.add_argument(*names.split(), metavar=metavar, help=about, **more)

    def file(self, names: str, metavar: str, about: str, **more: Any) -> None:
        """One that takes a path."""
        self.text(names, metavar, about, type=Path, **more)

    def number(self, names: str, metavar: str, about: str, *, limit: str | None = None, **more: Any) -> None:
        """One that takes a number of the range that `scclip_rt.limits` has for it, or for `limit`."""
        name = limit or names.split()[0].removeprefix("--").replace("-", "_")
        self.text(names, metavar, about, type=number(name), **more)

    def choice(self, names: str, choices: Sequence[str], about: str, **more: Any) -> None:
        """One that takes one of several words."""
        self._target.add_argument(*names.split(), choices=choices, help=about, **more)

    def flag(self, names: str, about: str, **more: Any) -> None:
        """One that is there or not."""
        self._target.add_argument(*names.split(), action="store_true", help=about, **more)

    def either(self, names: str, about: str) -> None:
        """One that says yes, or no with `--no-` before its name; None if it is not given."""
        self._target.add_argument(*names.split(), action=argparse.BooleanOptionalAction, help=about)
