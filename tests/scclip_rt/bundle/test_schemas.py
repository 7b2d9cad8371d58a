"""The schemas' quick check against jsonschema's own, on documents with one thing changed."""

import copy
import json
import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from scclip_rt.bundle import schemas
from stand_ins.engine_files import add_engine

VALUES = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    0.5,
    1.0,
    -0.5,
    math.inf,
    math.nan,
    2**53,
    2**53 + 1,
    "",
    "x",
    "../x",
)
OTHERS = ("fp32", "window", "dynamic", "scclip", "none", "a" * 64, [], [1, 2, 3], ["x"], {}, {"x": 1})


def judge(name: str) -> Any:
    """jsonschema's validator, with the numbers that every reader of bundles holds."""
    path = Path(schemas.__file__).parent / f"schema/{name}.schema.json"

    def integer(_: object, value: object) -> bool:
        return type(value) is int and -(2**53) <= value <= 2**53

    def number(_: object, value: object) -> bool:
        return integer(_, value) or (type(value) is float and math.isfinite(value))

    base = jsonschema.Draft202012Validator
    types = base.TYPE_CHECKER.redefine_many({"integer": integer, "number": number})
    return jsonschema.validators.extend(base, type_checker=types)(json.loads(path.read_text()))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a document, with each of its keys."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from places(inner)


def changed(document: Any, rng: random.Random) -> Any:
    """The document with one value replaced, dropped or put in by chance."""
    document = copy.deepcopy(document)
    container, key = rng.choice(list(places(document)))
    how = rng.random()
    value = copy.deepcopy(rng.choice(VALUES + OTHERS))
    if how < 0.15:
        del container[key]
    elif how < 0.3 and isinstance(container, dict):
        container["new"] = value
    elif how < 0.4 and isinstance(container, list):
        container.append(value)
    else:
        container[key] = value
    return document


@pytest.mark.parametrize("name", ["bundle", "engine"])
def test_quick_check_judges_as_jsonschema_does(name: str, own_bundle: Path) -> None:
    add_engine(own_bundle)
    file = own_bundle / ("bundle.json" if name == "bundle" else "engines/one.json")
    document = json.loads(file.read_text())
    schema, validator, rng = schemas._schema(name), judge(name), random.Random(0)
    verdicts = set()
    for turn in range(400):
        candidate = changed(document, rng) if turn else document
        verdict = validator.is_valid(candidate)
        verdicts.add(verdict)
        if verdict != schemas._passes(schema, candidate, schema):
            # 1.0 equals 1 to JSON Schema; such a document is left to jsonschema.
            assert verdict, candidate
            assert "1.0" in json.dumps(candidate)
        assert (schemas.flaw(name, candidate) is None) == verdict
    assert verdicts == {True, False}


def test_document_that_passes_needs_no_jsonschema(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads((bundle_path / "bundle.json").read_text())
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    assert schemas.flaw("bundle", document) is None
    with pytest.raises(ImportError):
        schemas.flaw("bundle", {**document, "name": 1})


def test_a_graph_is_described_in_one_place() -> None:
    found = [
        place
        for place, part in dict_parts(schemas._schema("bundle"), "")
        if {"file", "inputs", "outputs"} & part.get("properties", {}).keys()
    ]
    assert found == [".$defs.graph"]


def dict_parts(value: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of a document, by its place."""
    if isinstance(value, dict):
        yield place, value
        for name, item in value.items():
            yield from dict_parts(item, f"{place}.{name}")
