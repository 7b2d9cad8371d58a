"""PyAV, or the message that it is missing."""

from __future__ import annotations

from types import ModuleType

from scclip_rt.errors import BackendError, install


def load_av() -> ModuleType:
    """The module `av`.

    Raises:
        BackendError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise BackendError(
            f"video needs PyAV, which is not installed ({error}): {install('video')}"
        ) from error
    module: ModuleType = av
    return module
