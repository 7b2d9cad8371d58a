"""Deprecated: the former name of `scclip_rt.vocabulary.classes`."""

from scclip_rt.vocabulary.classes import find_background, parse_classes, shorten

__all__ = ["find_background", "parse_classes", "shorten"]
