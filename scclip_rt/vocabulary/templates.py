"""Prompts around a class name: the 80 that CLIP's authors used for ImageNet, none, or the user's."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from scclip_rt.errors import VocabularyError
from scclip_rt.vocabulary.classes import shorten

# One file for Python and C++. What is listed under surgery is what CLIP Surgery adds to the 80.
TEMPLATE_SETS: dict[str, tuple[str, ...]] = {
    name: tuple(patterns)
    for name, patterns in json.loads(Path(__file__).with_suffix(".json").read_text("utf-8")).items()
}
IMAGENET_TEMPLATES = TEMPLATE_SETS["imagenet"]
TEMPLATE_SETS["surgery"] = (*IMAGENET_TEMPLATES, *TEMPLATE_SETS["surgery"])


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
    def heads(self) -> list[str]:
        """What stands before the class name, of every pattern."""
        return [pattern[: pattern.index("{}")] for pattern in self.patterns]

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
