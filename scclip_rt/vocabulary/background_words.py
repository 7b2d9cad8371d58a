"""Words for what commonly lies behind objects: lists with their source in `background/`, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scclip_rt.errors import VocabularyError, did_you_mean
from scclip_rt.vocabulary.classes import Classes, name_key, shorten

BACKGROUND_WORDS = ("voc", "coco-object", "clip-es")
"""What `--background-words` and `Segmenter(background_words=…)` take."""
BACKGROUND = "background"


def background_words(name: str) -> tuple[str, ...]:
    """The words of a list.

    Raises:
        VocabularyError: no list has that name.
    """
    if name not in BACKGROUND_WORDS:
        raise VocabularyError(
            f"no list of background words is called {shorten(name)!r}{did_you_mean(name, BACKGROUND_WORDS)}; there are "
            f"{', '.join(BACKGROUND_WORDS)}",
            field="background_words",
        )
    text = (Path(__file__).parent / f"background/{name}.txt").read_text("utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return tuple(word.strip() for line in lines for word in line.split(","))


def add_words(classes: Classes, background: int | None, words: Sequence[str]) -> tuple[Classes, int]:
    """Let words find the background, except those that are a name of some class already.

    Args:
        classes: as `parse_classes` gives them.
        background: which of them is the background; None adds one at the end, so that no other is renumbered.
        words: of a list.

    Returns:
        The classes, and which of them is the background.

    Raises:
        VocabularyError: every word is a class already, so nothing is left to find a new background by.
    """
    taken = {name_key(name) for names in classes for name in names}
    free = tuple(word for word in words if name_key(word) not in taken)
    if background is not None:
        names = (*classes[background], *free)
        return (*classes[:background], names, *classes[background + 1 :]), background
    if not free:
        raise VocabularyError(
            "every background word is a class already: leave out background_words (--background-words)",
            field="background_words",
        )
    return (*classes, free), len(classes)
