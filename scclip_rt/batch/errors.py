"""The error of batch runs."""

from scclip_rt.errors import ScclipError


class BatchError(ScclipError):
    """An input that can't be read as rows of images, an output that belongs to another run, or a worker that died."""
