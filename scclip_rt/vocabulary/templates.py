"""Prompts around a class name: the 80 that CLIP's authors used for ImageNet, none, or the user's."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from scclip_rt.errors import VocabularyError
from scclip_rt.vocabulary.classes import shorten

IMAGENET_TEMPLATES = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)


# What CLIP Surgery adds to the 80.
SURGERY_TEMPLATES = (
    *IMAGENET_TEMPLATES,
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
)
TEMPLATE_SETS = {
    "imagenet": IMAGENET_TEMPLATES,
    "surgery": SURGERY_TEMPLATES,
    "photo": ("a photo of a {}.",),
    "none": ("{}",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Templates:
    """Patterns with one `{}` each, and the name that a vocabulary file records."""

    name: str
    patterns: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.patterns:
            raise VocabularyError(
                f"the template set {self.name!r} is empty; give at least one line with {{}}"
            )
        for pattern in self.patterns:
            if pattern.count("{}") != 1:
                raise VocabularyError(
                    f"a template must hold {{}} exactly once, where the class name goes; got {shorten(pattern)!r}",
                    field="templates",
                )

    def __call__(self, name: str) -> list[str]:
        """The prompts for one class name."""
        # Not str.format: names and templates may hold other braces.
        return [pattern.replace("{}", name) for pattern in self.patterns]

    @property
    def sha256(self) -> str:
        """Hash of the patterns, in order."""
        return hashlib.sha256("\n".join(self.patterns).encode()).hexdigest()


def load_templates(spec: str | os.PathLike[str] | Templates = "imagenet") -> Templates:
    """A template set: a name of `TEMPLATE_SETS`, or a `Path` to a file with a pattern per line.

    A string is a name and never a file, so that what a service was sent can't have its files read.

    Raises:
        VocabularyError: neither a known name nor a readable file, or a line without exactly one `{}`.
    """
    if isinstance(spec, Templates):
        return spec
    if isinstance(spec, str) and spec in TEMPLATE_SETS:
        return Templates(name=spec, patterns=TEMPLATE_SETS[spec])
    if isinstance(spec, str):
        raise VocabularyError(
            f"unknown templates {shorten(spec)!r}: known are {', '.join(TEMPLATE_SETS)}; a file is given as a Path "
            "(--templates FILE on the command line)",
            field="templates",
        )
    try:
        text = Path(spec).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VocabularyError(
            f"can't read templates {str(spec)!r}: {reason}; use {', '.join(TEMPLATE_SETS)}, or a text file with a line "
            "like 'a photo of a {}.' per template",
            field="templates",
        ) from error
    lines = (line.strip() for line in text.split("\n"))
    patterns = tuple(line for line in lines if line and not line.startswith("#"))
    digest = hashlib.sha256("\n".join(patterns).encode()).hexdigest()
    return Templates(name=f"custom-{digest[:12]}", patterns=patterns)
