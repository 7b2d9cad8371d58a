"""Objects for processes of their own: a spawned process imports this module by name."""

import os
from typing import Any

import numpy as np

from scclip_rt.errors import OptionError


class Echo:
    """Answers, refuses, fails or ends, as it is told."""

    def __init__(self, argument: Any) -> None:
        if argument == "refuse":
            raise OptionError("told to refuse")
        self._argument = argument
        self._held: list[np.ndarray] = []

    def argument(self) -> Any:
        return self._argument

    def process(self) -> int:
        return os.getpid()

    def hold(self, megabytes: int) -> None:
        self._held.append(np.ones(megabytes << 20, np.uint8))

    def refuse(self) -> None:
        raise OptionError("not this")

    def fail(self) -> None:
        raise ZeroDivisionError("a bug")

    def end(self) -> None:
        os._exit(3)


def open_echo(argument: Any) -> Echo:
    return Echo(argument)
