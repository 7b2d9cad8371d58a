"""Refusals carry the code and the field that the table says, as the C++ library's do."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refusals import build_bundles, build_vocabularies, table
from scclip_rt import Segmenter
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.errors import ScclipError
from scclip_rt.vocabulary.file import load_vocabulary
from tiny_bundle import build_bundle

Outcome = tuple[str | None, str | None]


def outcome(action: Callable[[], object]) -> Outcome:
    """The code and the field of a refusal; (None, None) if there is none."""
    try:
        action()
    except ScclipError as error:
        return type(error).__name__, error.field
    return None, None


def expected(row: dict[str, Any]) -> Outcome:
    return row["code"], row["field"]


def _use(path: Path) -> None:
    bundle = Bundle.open(path)
    bundle.checked_graph(bundle.encoders[0].file)


def test_bundles_are_refused_by_code_and_field(tmp_path: Path) -> None:
    rows = table()["bundles"]
    paths = build_bundles(tmp_path)
    found = {name: outcome(lambda name=name: _use(paths[name])) for name in rows}
    assert found == {name: expected(row) for name, row in rows.items()}


def test_vocabularies_are_refused_by_code_and_field(tmp_path: Path) -> None:
    rows = table()["vocabularies"]["files"]
    paths = build_vocabularies(tmp_path / "vocabularies")
    found = {name: outcome(lambda name=name: load_vocabulary(paths[name])) for name in rows}
    assert found == {name: expected(row) for name, row in rows.items()}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bundle(tmp_path_factory.mktemp("refusals") / "sound.scclip")


def test_images_are_refused_by_code_and_field(bundle: Path) -> None:
    for row in table()["images"]:
        segmenter = Segmenter(bundle, **row["options"])
        image = np.zeros((row["height"], row["width"], 3), np.uint8)
        assert outcome(lambda s=segmenter, i=image: s.encode(i)) == expected(row), row


def test_options_are_refused_by_code_and_field(bundle: Path) -> None:
    for row in table()["options"]:
        if row["options"].get("backend") == "openvino" and importlib.util.find_spec("openvino") is None:
            continue
        assert outcome(lambda o=row["options"]: Segmenter(bundle, **o)) == expected(row), row
