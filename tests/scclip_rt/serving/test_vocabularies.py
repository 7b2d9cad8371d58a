"""Class lists: embedded once, remembered, shared between processes, never read from the server's files."""

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scclip_rt import Segmenter
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.errors import VocabularyError
from scclip_rt.serving import vocabularies
from scclip_rt.serving.errors import DeadlineError, NotFoundError, TooLargeError
from scclip_rt.serving.service import Service
from scclip_rt.serving.vocabularies import Vocabularies, split_classes
from services import settings_of, wait_for


def make(bundle: Path | Bundle, **changes: object) -> Vocabularies:
    options: dict[str, object] = {
        "templates": "none", "ready": {}, "default": None, "keep": 2, "max_names": 10, "threads": None, "shared": None,
    }  # fmt: skip
    return Vocabularies(Bundle.open(bundle), **(options | changes))


def soon() -> float:
    return time.monotonic() + 60


def test_a_list_is_embedded_once_and_found_by_name(bundle_path: Path) -> None:
    lists = make(bundle_path)
    assert lists.known(["a", "b"], None) is None
    name, made = lists.embed(["a", "b"], None, deadline=soon())
    assert lists.embed(["a", "b"], None, deadline=soon())[1] is made
    assert lists.known(["a", "b"], None) is lists.find(name) is made
    assert lists.embed(["a", "b"], "b", deadline=soon())[0] != name


def test_the_oldest_list_is_forgotten(bundle_path: Path) -> None:
    lists = make(bundle_path)
    names = [lists.embed([text], None, deadline=soon())[0] for text in "abc"]
    with pytest.raises(NotFoundError, match="any more"):
        lists.find(names[0])
    assert lists.find(names[2]).classes == ("c",)


def test_processes_find_each_others_lists(bundle_path: Path, tmp_path: Path) -> None:
    name, made = make(bundle_path, shared=tmp_path).embed(["a", "b"], None, deadline=soon())
    found = make(bundle_path, shared=tmp_path).find(name)
    assert np.array_equal(found.embeddings, made.embeddings)
    with pytest.raises(NotFoundError):
        make(bundle_path, shared=tmp_path).find("v-../../x")


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        ([], VocabularyError, "no classes"),
        (["a", "a"], VocabularyError, "two classes"),
        (["a" * 201], VocabularyError, "201 characters"),
        ([f"n{number}" for number in range(11)], TooLargeError, "11 class names"),
        (["a,b,c,d,e,f,g,h,i,j,k"], TooLargeError, "11 class names"),
    ],
)
def test_lists_out_of_bounds(
    bundle_path: Path, classes: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(bundle_path).embed(classes, None, deadline=soon())


def test_too_many_names_are_counted_before_they_are_parsed(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body full of names would hold up the event loop for seconds."""
    lists = make(bundle_path)
    monkeypatch.setattr(vocabularies, "parse_with_background", None)
    for classes in (["a"] * 11, ["a," * 11]):
        with pytest.raises(TooLargeError, match="11 class names"):
            lists.known(classes, None)


def test_a_single_class_is_as_in_python() -> None:
    """CLIP Surgery compares one class with the empty text."""
    demo = Bundle.open("demo")
    decoding = replace(demo.decoding, class_weighting="surgery")
    bundle = replace(demo, manifest=replace(demo.manifest, decoding=decoding))
    made = make(bundle).embed(["dog"], None, deadline=soon())[1]
    expected = Segmenter(bundle, classes=["dog"], templates="none").vocabulary
    assert made.classes == expected.classes == ("dog", "background")
    assert made.background == expected.background == 1
    assert np.array_equal(made.embeddings, expected.embeddings)


def test_no_default_is_said(bundle_path: Path) -> None:
    with pytest.raises(VocabularyError, match="no list of its own"):
        make(bundle_path).find(None)


def test_a_name_of_a_file_is_a_class_like_any_other(bundle_path: Path) -> None:
    assert make(bundle_path).embed(["/etc/hostname"], None, deadline=soon())[1].classes == ("/etc/hostname",)


def test_embedding_stops_at_the_deadline(bundle_path: Path) -> None:
    with pytest.raises(DeadlineError, match="go on where this stopped"):
        make(bundle_path).embed(["never seen before"], None, deadline=0.0)


def test_lists_take_turns(bundle_path: Path) -> None:
    """A long list in the text encoder lets a short one through between two of its batches."""
    lists = make(bundle_path, templates="imagenet")
    lists.embed(["x"], None, deadline=soon())
    inner = lists._tower.prompts._text
    turns: list[str] = []
    short = threading.Thread(target=lambda: lists.embed(["short"], None, deadline=soon()))

    class Slow:
        def encode(self, tokens: np.ndarray) -> np.ndarray:
            turns.append(threading.current_thread().name)
            if len(turns) == 1:
                short.start()
            time.sleep(0.02)
            return inner.encode(tokens)

    lists._tower.prompts._text = Slow()
    lists.embed([f"long {number}" for number in range(10)], None, deadline=soon())
    short.join(60)
    others = [place for place, name in enumerate(turns) if name == short.name]
    assert others
    assert others[0] < len(turns) - 1


def test_the_end_of_a_service_stops_what_is_being_embedded(bundle_path: Path) -> None:
    """Else its thread holds up the process until the request's deadline."""
    service = Service(settings_of(bundle_path, templates="imagenet"))
    wait_for(lambda: service.ready)
    model = service.model(None)
    prompts = model.vocabularies._tower.prompts
    asyncio.run(service.embed(model, ("x",), None, service.visit()))
    inner, turns = prompts._text, []

    class Ending:
        def encode(self, tokens: np.ndarray) -> np.ndarray:
            turns.append(len(tokens))
            service.close(0.0)
            return inner.encode(tokens)

    prompts._text = Ending()
    names = tuple(f"until the end {number}" for number in range(10))
    with pytest.raises(DeadlineError):
        asyncio.run(service.embed(model, names, None, service.visit()))
    assert len(turns) == 1


def test_split_classes() -> None:
    assert split_classes(" sky; grass, lawn \n\n dog;") == ("sky", "grass, lawn", "dog")
