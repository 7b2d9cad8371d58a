"""What a command line offers, read from its parser."""

import argparse
from collections.abc import Iterator

NO_NUMBERS = ("nan", "inf", "-1e308", "9" * 400, "1e308")
"""Texts that no numeric option may take."""


def numeric_options(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The options that convert a text to a number, those of sub-commands included."""
    for action in parser._actions:  # argparse has no public way to look at them
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from numeric_options(command)
        elif callable(action.type):
            try:
                value = action.type("1")
            except (TypeError, ValueError, argparse.ArgumentTypeError):
                continue  # a pair, a list
            if isinstance(value, int | float):
                yield action
