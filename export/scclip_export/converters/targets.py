"""Which engines' formats there are: the runtime's, and those that are made from a torch program."""

from importlib import import_module
from importlib.util import find_spec
from typing import cast

from scclip_rt.baking.converters.base import Converter
from scclip_rt.baking.converters.convert import CONVERTERS, TORCH_TARGETS, converter_of
from scclip_rt.errors import BackendError, install

TARGETS = (*CONVERTERS, *TORCH_TARGETS)


def converter_to(target: str) -> Converter:
    """The module of a target.

    Raises:
        OptionError: there is none; says which there are.
        BackendError: torch is not installed.
    """
    if target in TORCH_TARGETS:
        if find_spec("torch") is None:
            raise BackendError(f"{target} needs torch: {install(target)}", field="to")
        return cast("Converter", import_module(f"scclip_export.converters.{target}"))
    return converter_of(target, TARGETS)
