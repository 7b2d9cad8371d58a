"""Lists of background words, and the class that they find."""

import numpy as np
import pytest

from scclip_rt import Segmenter
from scclip_rt.errors import OptionError, VocabularyError
from scclip_rt.evaluation.datasets.benchmarks import BENCHMARKS
from scclip_rt.vocabulary.background_words import BACKGROUND_WORDS, add_words, background_words


@pytest.mark.parametrize(("name", "count"), zip(BACKGROUND_WORDS, (26, 25, 25), strict=True))
def test_lists_hold_different_words(name: str, count: int) -> None:
    words = background_words(name)
    assert len(set(words)) == len(words) == count
    assert all(word == word.strip().lower() != "" for word in words)


def test_benchmarks_use_the_same_words() -> None:
    for name, benchmark in (("voc", "voc21"), ("coco-object", "coco-object")):
        assert background_words(name) == BENCHMARKS[benchmark].prompts()[0]


def test_an_unknown_list_is_refused() -> None:
    with pytest.raises(VocabularyError, match="did you mean 'clip-es'"):
        background_words("clipes")


def test_words_that_are_classes_are_left_out() -> None:
    classes = (("Sky",), ("dog", "puppy"))
    assert add_words(classes, None, ("sky", "wall")) == ((*classes, ("wall",)), 2)
    assert add_words(classes, 1, ("sky", "wall")) == ((("Sky",), ("dog", "puppy", "wall")), 1)
    with pytest.raises(VocabularyError, match="every background word is a class"):
        add_words(classes, None, ("sky",))


def test_the_background_is_found_by_words_and_called_background() -> None:
    segment = Segmenter("demo", classes="grass; tiger", background_words="voc", templates="none", cache=False)
    vocabulary = segment.vocabulary
    assert vocabulary.classes == ("grass", "tiger", "background")
    assert vocabulary.background == 2
    assert "grass" not in vocabulary.queries[2:]
    assert vocabulary.queries[2:] == tuple(word for word in background_words("voc") if word != "grass")
    assert segment.with_classes(vocabulary=vocabulary).vocabulary is vocabulary
    own = segment.with_classes("background, other; tiger").vocabulary
    assert own.classes == ("background", "tiger")
    assert own.background == 0
    assert own.queries[:3] == ("background", "other", "sky")
    np.testing.assert_array_equal(own.query_class, [0] * (len(own.queries) - 1) + [1])


def test_words_and_what_excludes_them_are_refused() -> None:
    with pytest.raises(OptionError, match="exclude each other"):
        Segmenter("demo", classes="grass; tiger", background="none", background_words="voc")
    segment = Segmenter("demo")
    with pytest.raises(OptionError, match="go with classes"):
        Segmenter("demo", vocabulary=segment.vocabulary, background_words="voc")
    with pytest.raises(OptionError, match="go with classes"):
        Segmenter("demo", background_words="voc")
