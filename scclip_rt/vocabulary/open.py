"""From what the user names to a vocabulary that fits the bundle: class names are embedded, files are checked."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

from scclip_rt.backends import TextBackend, open_text_backend
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.engine_sidecar import source_sha256
from scclip_rt.errors import OptionError
from scclip_rt.vocabulary.background_words import BACKGROUND, add_words, background_words
from scclip_rt.vocabulary.beginnings import beginnings_file
from scclip_rt.vocabulary.classes import EMPTY_TEXT, Classes, find_background, only_class, parse_classes
from scclip_rt.vocabulary.embedding import embed_classes, embedding_cache_directory
from scclip_rt.vocabulary.file import Vocabulary, load_vocabulary
from scclip_rt.vocabulary.prompts import EncodePrompts, PromptEncoder
from scclip_rt.vocabulary.templates import Templates, load_templates
from scclip_rt.vocabulary.tokenizer import Tokenizer

_log = logging.getLogger("scclip_rt")


class TextTower:
    """A bundle's text encoder and tokenizer, each loaded when a name first needs it.

    Args:
        bundle: whose they are.
        precision: `fp32`, or `int8` where the bundle has that.
        threads: CPU threads; None takes the cores this process may use.
        keep: hold the weights between calls (for a ViT-B/16 some 250 MB), so that the next name costs only itself.
        text: a text encoder that runs elsewhere, instead of the bundle's.
        sha256: of what its embeddings depend on; None: as those of the bundle's.

    Raises:
        BackendError: the bundle has no text encoder of that precision.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str = "fp32",
        threads: int | None = None,
        keep: bool = True,
        text: TextBackend | None = None,
        sha256: str | None = None,
    ) -> None:
        self._bundle, self._keep = bundle, keep
        graphs = bundle.text_graphs(precision)
        own = bundle.text_encoder.model_sha256 if precision == "fp32" else source_sha256(bundle, graphs.file)
        self.sha256 = sha256 or own
        """Of what embeddings depend on: the text model, and in int8 the file."""
        self._cache_dir: Path | None = None

        def load() -> TextBackend:
            if text is not None:
                return text
            if self._cache_dir is not None and graphs.resumed is not None:
                sha256 = source_sha256(bundle, graphs.resumed.file)
                self.prompts.kept = beginnings_file(self._cache_dir, sha256)
            return open_text_backend(bundle, precision=precision, threads=threads)

        self.prompts = PromptEncoder(load)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer."""
        return Tokenizer.from_file(self._bundle.checked_path(self._bundle.manifest.tokenizer))

    def embed(
        self,
        classes: Classes,
        templates: Templates,
        *,
        encode: EncodePrompts | None = None,
        background: str | None = None,
        cache_dir: Path | None = None,
        progress: bool = False,
    ) -> Vocabulary:
        """`embed_classes` with what the bundle says; `encode` stands for `prompts` where it is given.

        What the prompts begin with is kept in `cache_dir` too.
        """
        self._cache_dir = cache_dir or self._cache_dir
        try:
            return embed_classes(
                classes,
                encode or self.prompts,
                self.tokenizer,
                templates,
                model_sha256=self._bundle.text_encoder.model_sha256,
                background=background,
                context_length=self._bundle.text_encoder.context_length,
                cache_dir=cache_dir,
                cache_key=self.sha256,
                progress=progress,
            )
        finally:
            if not self._keep:
                self.prompts.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingOptions:
    """How class names are embedded; the fields are those of `Segmenter`."""

    templates: str | os.PathLike[str] | None = None  # the bundle's
    cache: bool = True
    progress: bool = False
    threads: int | None = None
    background_words: str | None = None  # a name of `BACKGROUND_WORDS`
    text_precision: str = "fp32"
    tower: TextTower | None = None  # one for each call


def resolve_vocabulary(
    bundle: Bundle,
    options: EmbeddingOptions,
    *,
    classes: str | os.PathLike[str] | Sequence[str | Sequence[str]] | None = None,
    vocabulary: str | os.PathLike[str] | Vocabulary | None = None,
    background: str | None = None,
) -> Vocabulary:
    """Embed class names, or take a vocabulary and check that it is this bundle's.

    Without either, the ready vocabulary that the bundle carries is taken (the first, if there are several).

    Args:
        bundle: whose text encoder and tokenizer are used.
        options: how names are embedded.
        classes: names in a string or a list, or a `Path` to a file of them; see `Segmenter`.
        vocabulary: instead of `classes`.
        background: name of a class, `none`, or None for what the vocabulary says.

    Raises:
        OptionError: both of `classes` and `vocabulary`, or neither and the bundle carries none; or background words
            without `classes`.
        VocabularyError: empty, ambiguous, too long, of another model, or no such background class.
    """
    if classes is not None and vocabulary is not None:
        raise OptionError("give either classes or a vocabulary, and not both", field="classes")
    if classes is not None:
        return _embed(bundle, options, classes, background)
    if options.background_words is not None:
        raise OptionError(
            "background words go with classes: a vocabulary is embedded already. Leave them out",
            field="background_words",
        )
    if vocabulary is None:
        vocabulary = _ready_vocabulary(bundle)
    if not isinstance(vocabulary, Vocabulary):
        name = os.fspath(vocabulary)
        vocabulary = load_vocabulary(vocabulary)
        check_model(vocabulary, bundle, name=name)
    else:
        check_model(vocabulary, bundle)
    if background is None:
        return vocabulary
    return replace(vocabulary, background=find_background(vocabulary.classes, background))


def _ready_vocabulary(bundle: Bundle) -> Path:
    ready = bundle.manifest.vocabularies
    if not ready:
        raise OptionError(
            f"{bundle.path} carries no ready vocabulary: name the classes, or give a file that `scclip embed` wrote",
            field="classes",
        )
    return bundle.checked_path(ready[0])


def check_model(vocabulary: Vocabulary, bundle: Bundle, *, name: str = "") -> None:
    """Refuse a vocabulary that another model made.

    Raises:
        VocabularyError: its text model or width is not the bundle's.
    """
    vocabulary.check_model(bundle.text_encoder.model_sha256, embed_dim=bundle.model.embed_dim, name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedClasses:
    """Class names, with the words for the background that were asked for.

    Attributes:
        classes: for each class its names.
        background: index of the background class, or None.
        added: whether the background was added: it is found by words or the empty text, and is called "background".
    """

    classes: Classes
    background: int | None
    added: bool = False

    def named(self, vocabulary: Vocabulary) -> Vocabulary:
        """The vocabulary with its background, under its name."""
        names = vocabulary.classes
        if self.added:
            names = (*names[:-1], BACKGROUND)
        return replace(vocabulary, classes=names, background=self.background)


def parse_with_background(
    classes: str | os.PathLike[str] | Sequence[str | Sequence[str]],
    background: str | None,
    words: str | None,
    *,
    alone: bool = False,
    warn: bool = True,
) -> ParsedClasses:
    """Read class names; a misspelt name shows before minutes of work. One class alone is warned of.

    Args:
        classes: as for `Segmenter`.
        background: as for `Segmenter`.
        words: name of a list of background words, or None.
        alone: compare one class without a background with the empty text, as CLIP Surgery does: f · (t - t_empty) > 0.
        warn: log that one class alone gets every pixel, or that commas alone make one class.

    Raises:
        VocabularyError: as `parse_classes`, `find_background` and `background_words`.
        OptionError: words for a background that is not wanted.
    """
    parsed = parse_classes(classes)
    index = find_background([names[0] for names in parsed], background)
    if words is None:
        if alone and len(parsed) == 1 and index is None and background is None:
            if warn and len(parsed[0]) > 1:
                _warn_of_only_class(
                    tuple(parsed[0]), "It gets every pixel that is nearer to it than the empty text"
                )
            return ParsedClasses(classes=(*parsed, EMPTY_TEXT), background=1, added=True)
        if warn and len(parsed) == 1 and index is None:
            _warn_of_only_class(tuple(parsed[0]))
        return ParsedClasses(classes=parsed, background=index)
    if background is not None and index is None:
        raise OptionError(
            "background 'none' and background words exclude each other. Leave one of them out",
            field="background_words",
        )
    extended, found = add_words(parsed, index, background_words(words))
    return ParsedClasses(classes=extended, background=found, added=index is None)


@lru_cache(maxsize=1024)
def _warn_of_only_class(names: tuple[str, ...], what: str | None = None) -> None:
    """Once for each list, however often it is set."""
    _log.warning("%s", only_class(names, what))


def _embed(
    bundle: Bundle,
    options: EmbeddingOptions,
    classes: str | os.PathLike[str] | Sequence[str | Sequence[str]],
    background: str | None,
) -> Vocabulary:
    parsed = parse_with_background(
        classes, background, options.background_words, alone=bundle.decoding.class_weighting == "surgery"
    )
    tower = options.tower or TextTower(bundle, precision=options.text_precision, threads=options.threads)
    vocabulary = tower.embed(
        parsed.classes,
        load_templates(options.templates or bundle.decoding.templates),
        background="none",
        cache_dir=embedding_cache_directory() if options.cache else None,
        progress=options.progress,
    )
    return parsed.named(vocabulary)
