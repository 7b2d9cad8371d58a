"""PyAV, or the message that it is missing."""

from types import ModuleType

from scclip_rt.errors import optional_module


def load_av() -> ModuleType:
    """The module `av`.

    Raises:
        BackendError: it is not installed.
    """
    return optional_module("av", "video needs PyAV", "video")
