"""The class lists of one model: ready ones by name, and those that requests bring, embedded once."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from scclip_rt.backends import TextBackend
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.errors import VocabularyError
from scclip_rt.serving.errors import DeadlineError, NotFoundError, TooLargeError
from scclip_rt.vocabulary.classes import find_background, shorten
from scclip_rt.vocabulary.embedding import embedding_cache_directory
from scclip_rt.vocabulary.file import Vocabulary, load_vocabulary, save_vocabulary
from scclip_rt.vocabulary.open import ParsedClasses, TextTower, check_model, parse_with_background
from scclip_rt.vocabulary.templates import load_templates

DEFAULT = "default"
"""What the vocabulary of requests that name no classes is called."""
_LONGEST_NAME = 200


def split_classes(text: str) -> tuple[str, ...]:
    """A form field or query parameter to class entries: `sky; grass, lawn` or a line each. Never a file's name."""
    return tuple(part.strip() for part in text.replace("\n", ";").split(";") if part.strip())


class Vocabularies:
    """Vocabularies of one bundle. Methods may be called from several threads at a time.

    Args:
        bundle: whose text encoder embeds.
        templates: prompts around names.
        ready: name → vocabulary, there from the start.
        default: for requests that name none; None if there is none.
        keep: how many of those that requests brought stay in memory.
        max_names: most names in a list, synonyms included.
        threads: of the text encoder.
        shared: folder where other processes see them too, or None.
        text_precision: as for `Segmenter`.
        text: the text encoder, if it runs elsewhere; None loads the bundle's when it is first needed.
        text_sha256: as for `TextTower`.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        templates: str | Path | None,
        ready: Mapping[str, Vocabulary],
        default: Vocabulary | None,
        keep: int,
        max_names: int,
        threads: int | None,
        shared: Path | None,
        text_precision: str = "fp32",
        text: TextBackend | None = None,
        text_sha256: str | None = None,
    ) -> None:
        self._bundle = bundle
        self._templates = load_templates(templates or bundle.decoding.templates)
        self._ready = dict(ready)
        self._default = default
        self._keep = keep
        self._max_names = max_names
        self._shared = shared
        self._recent: OrderedDict[str, Vocabulary] = OrderedDict()
        self._lock = threading.Lock()
        self._tower = TextTower(
            bundle, precision=text_precision, threads=threads, text=text, sha256=text_sha256
        )

    @property
    def default(self) -> Vocabulary | None:
        """For requests that name no classes."""
        return self._default

    def names(self) -> dict[str, Vocabulary]:
        """Every vocabulary that a request may ask for by name, in this process."""
        first = {} if self._default is None else {DEFAULT: self._default}
        with self._lock:
            return {**first, **self._ready, **self._recent}

    def find(self, name: str | None) -> Vocabulary:
        """The vocabulary of that name; None is the default.

        Raises:
            NotFoundError: there is none (any more).
            VocabularyError: none was asked for and the server has no default.
        """
        if name is None or name == DEFAULT:
            if self._default is None:
                raise VocabularyError(
                    "no classes: send classes or the name of a vocabulary; this server has no list of its own"
                )
            return self._default
        if name in self._ready:
            return self._ready[name]
        found = self._remembered(name) or self._from_other_process(name)
        if found is None:
            raise NotFoundError(
                f"no vocabulary is called {shorten(name)!r} (any more); post its classes to /v1/vocabularies"
            )
        return found

    def known(self, classes: Sequence[str], background: str | None) -> Vocabulary | None:
        """The vocabulary of this list if it is embedded already; quick enough for an event loop."""
        return self._remembered(self.name_of(self._parse(classes, background), background))

    def name_of(self, parsed: ParsedClasses, background: str | None) -> str:
        """The name of a list: the same on every server with this model, these templates and this precision."""
        content = [parsed.classes, background, self._templates.sha256, self._tower.sha256]
        return "v-" + hashlib.sha256(json.dumps(content).encode()).hexdigest()[:20]

    def embed(
        self,
        classes: Sequence[str],
        background: str | None,
        *,
        deadline: float,
        gone: Callable[[], bool] = lambda: False,
    ) -> tuple[str, Vocabulary]:
        """Embed a list, or find it embedded. May take seconds.

        Args:
            classes: an entry a class, synonyms after commas.
            background: as for `Segmenter`.
            deadline: `time.monotonic()` after which it stops; names embedded until then are in the cache.
            gone: whether nobody waits any more.

        Returns:
            The name, and the vocabulary.

        Raises:
            VocabularyError: empty, ambiguous or too long names.
            TooLargeError: too many names.
            DeadlineError: not done in time.
            OutputError: the shared folder can't be written.
        """
        parsed = self._parse(classes, background)
        name = self.name_of(parsed, background)
        vocabulary = self._remembered(name)
        if vocabulary is None:
            vocabulary = self._embed(parsed, deadline, gone)
            if self._shared is not None:
                save_vocabulary(vocabulary, self._shared / f"{name}.safetensors", force=True)
            self._remember(name, vocabulary)
        return name, vocabulary

    def _parse(self, classes: Sequence[str], background: str | None) -> ParsedClasses:
        # Counted before anything is parsed: that takes seconds for a body full of names.
        count = len(classes)
        if count <= self._max_names:
            count = sum(entry.rstrip().removesuffix(",").count(",") + 1 for entry in classes)
        if count > self._max_names:
            raise TooLargeError(
                f"{count:,} class names; this server embeds {self._max_names:,} at a time. "
                "Embed them once with `scclip embed` and start it with --vocabulary NAME=FILE"
            )
        parsed = parse_with_background(
            list(classes),
            background,
            None,
            alone=self._bundle.decoding.class_weighting == "surgery",
            warn=False,
        )
        longest = max((name for entry in parsed.classes for name in entry), key=len)
        if len(longest) > _LONGEST_NAME:
            raise VocabularyError(
                f"the class name {shorten(longest)!r} has {len(longest):,} characters; at most {_LONGEST_NAME}"
            )
        return parsed

    def _embed(self, parsed: ParsedClasses, deadline: float, gone: Callable[[], bool]) -> Vocabulary:
        def in_time() -> None:
            if gone() or time.monotonic() > deadline:
                raise DeadlineError(
                    "the class names were not embedded in time; send them again to go on where this stopped, "
                    "or embed them once with `scclip embed`"
                )

        vocabulary = self._tower.embed(
            parsed.classes,
            self._templates,
            encode=lambda prompts: self._tower.prompts(prompts, in_time),
            background="none",
            cache_dir=embedding_cache_directory(),
        )
        return parsed.named(vocabulary)

    def _remembered(self, name: str) -> Vocabulary | None:
        with self._lock:
            found = self._recent.get(name)
            if found is not None:
                self._recent.move_to_end(name)
            return found

    def _remember(self, name: str, vocabulary: Vocabulary) -> None:
        with self._lock:
            self._recent[name] = vocabulary
            while len(self._recent) > self._keep:
                self._recent.popitem(last=False)

    def _from_other_process(self, name: str) -> Vocabulary | None:
        if self._shared is None or not name.startswith("v-") or not name[2:].isalnum():
            return None
        path = self._shared / f"{name}.safetensors"
        if not path.is_file():
            return None
        vocabulary = load_vocabulary(path)
        check_model(vocabulary, self._bundle)
        self._remember(name, vocabulary)
        return vocabulary


def with_background(vocabulary: Vocabulary, background: str | None) -> Vocabulary:
    """The vocabulary with another background class; None leaves it.

    Raises:
        VocabularyError: no class has that name.
    """
    if background is None:
        return vocabulary
    return replace(vocabulary, background=find_background(vocabulary.classes, background))
