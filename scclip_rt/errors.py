"""The errors of the runtime. Each message says what was asked, what was found, and what to do.

`code` names the kind (docs/errors.md explains each) and `field` what is at fault; the C++ library has the same two.
"""

import importlib
import re
from collections.abc import Iterable
from types import ModuleType


class ScclipError(Exception):
    """Base of every error that bad input, a bad bundle or a missing backend causes.

    Its class is its code (docs/errors.md explains each). `field` is what is at fault: an option (`short_side`), a file
    of the bundle, a place in bundle.json (`encoders[0].precision`), an entry of a vocabulary; None where the message
    alone tells. Both are the C++ library's as well.
    """

    def __init__(self, *args: object, field: str | None = None) -> None:
        super().__init__(*args)
        self.field = field

    @property
    def code(self) -> str:
        """The name of the kind, as docs/errors.md lists it."""
        return type(self).__name__


class BundleError(ScclipError):
    """A bundle that is incomplete, damaged, unsafe or of another format version."""


class ImageError(ScclipError):
    """An image that can't be read, or is larger than the limits."""


class VocabularyError(ScclipError):
    """A class list or vocabulary file that is empty, ambiguous or of another model."""


class BackendError(ScclipError):
    """A backend, device or provider that is unknown, not installed or can't run the bundle."""


class OutputError(ScclipError):
    """An output that exists already or can't be written."""


class OptionError(ScclipError, ValueError):
    """An option outside its range."""


def install(extra: str) -> str:
    """The command that brings an extra, for messages. Once a package index has scclip-rt, this line says so."""
    return f"pip install '.[{extra}]' in a checkout of scclip-rt"


def optional_module(name: str, needed: str, extra: str) -> ModuleType:
    """Import a module that only an extra brings.

    Args:
        name: of the module.
        needed: what needs what, for the message: "video needs PyAV".
        extra: that has it.

    Raises:
        BackendError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BackendError(f"{needed}, which is not installed ({error}): {install(extra)}") from error


def not_finite(what: str) -> BackendError:
    """The error for an encoder's output that holds NaN or infinity: no result is made of it.

    Args:
        what: the output, with its file where that is known.
    """
    return BackendError(
        f"{what} holds NaN or infinity; the weights are damaged or this precision overflows (try --precision fp32)"
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'demo'`, or nothing where no known word is close."""
    import difflib

    folded = {name.lower().replace("-", "").replace("/", "").replace("_", ""): name for name in known}
    key = word.lower().replace("-", "").replace("/", "").replace("_", "")
    close = difflib.get_close_matches(key, folded, n=1, cutoff=0.6)
    return f"; did you mean {folded[close[0]]!r}" if close else ""


_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Text for a terminal: control characters, and those that turn the direction of writing, as escapes.

    Names and messages out of bundles and files pass through here, so that none can clear a screen or forge a line.
    """
    return _CONTROLS.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)
