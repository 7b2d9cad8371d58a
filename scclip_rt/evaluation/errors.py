"""The error of evaluation."""

from scclip_rt.errors import ScclipError


class DatasetError(ScclipError):
    """A dataset that is incomplete, or a mask that does not fit its image or its classes; names the file."""
