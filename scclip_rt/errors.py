"""The errors of the runtime. Each message says what was asked, what was found, and what to do."""


class ScclipError(Exception):
    """Base of every error that bad input, a bad bundle or a missing backend causes.

    Its class is its code. `field` is what is at fault: an option, a file of the bundle, a place in bundle.json, an
    entry of a vocabulary; None where the message alone tells. Both are the C++ library's as well.
    """

    def __init__(self, *args: object, field: str | None = None) -> None:
        super().__init__(*args)
        self.field = field


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


def not_finite(what: str) -> BackendError:
    """The error for an encoder's output that holds NaN or infinity: no result is made of it.

    Args:
        what: the output, with its file where that is known.
    """
    return BackendError(
        f"{what} holds NaN or infinity; the weights are damaged or this precision overflows (try --precision fp32)"
    )
