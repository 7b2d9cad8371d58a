"""The errors of the exporter: each message says what was asked, what was found, and what to do."""

from scclip_rt.errors import ScclipError


class ExportError(ScclipError):
    """An export that can't go on: unsuitable options, or a graph that misses its parity threshold."""


class CheckpointError(ExportError):
    """A checkpoint that is unreadable, damaged or not a CLIP ViT."""
