"""The JSON schemas of the bundle's files, with numbers as all our readers take them."""

import functools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

_EXACT = 2**53  # float64 and JavaScript hold every integer up to here


@functools.cache
def _schema(name: str) -> dict[str, Any]:
    text = (Path(__file__).parent / f"schema/{name}.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def flaw(name: str, document: object) -> Any:
    """What `NAME.schema.json` refuses in a document: the error that says most (jsonschema's), or None.

    JSON Schema calls 224.0 an integer, which C++ and Python do not take for one: integers are written as such, and no
    number is beyond what a reader can hold.

    jsonschema takes 70 ms to load and to check a manifest, longer than a small image. So a document is first held
    against the schema here, in a millisecond, and what does not pass is jsonschema's to judge and to explain.
    """
    schema = _schema(name)
    if _passes(schema, document, schema):
        return None
    import jsonschema

    base = jsonschema.Draft202012Validator
    types = base.TYPE_CHECKER.redefine_many({"integer": _is_integer, "number": _is_number})
    validator = jsonschema.validators.extend(base, type_checker=types)(schema)
    return jsonschema.exceptions.best_match(validator.iter_errors(document))


def _passes(schema: dict[str, Any], value: Any, root: dict[str, Any]) -> bool:
    """Whether a value passes a schema of the keywords below, by JSON Schema's rules for them."""
    return all(
        keyword in _ANNOTATIONS or _KEYWORDS[keyword](argument, value, schema, root)
        for keyword, argument in schema.items()
    )


def _is_integer(_: object, value: object) -> bool:
    return type(value) is int and abs(value) <= _EXACT


def _is_number(_: object, value: object) -> bool:
    return _is_integer(_, value) or (type(value) is float and math.isfinite(value))


def _is_same(value: object, constant: object) -> bool:
    """JSON's equality of texts and integers: True is not 1."""
    return type(value) is type(constant) and value == constant


_TYPES: dict[str, Callable[[object, object], bool]] = {
    "object": lambda _, value: isinstance(value, dict),
    "array": lambda _, value: isinstance(value, list),
    "string": lambda _, value: isinstance(value, str),
    "boolean": lambda _, value: isinstance(value, bool),
    "null": lambda _, value: value is None,
    "integer": _is_integer,
    "number": _is_number,
}
_ANNOTATIONS = frozenset(("$schema", "$defs", "title", "description"))
# Each: the keyword's argument, the value, the schema it stands in, the whole schema. What limits a kind of value passes
# values of other kinds, as in JSON Schema.
_KEYWORDS: dict[str, Callable[[Any, Any, dict[str, Any], dict[str, Any]], bool]] = {
    "$ref": lambda name, value, _, root: _passes(root["$defs"][name.removeprefix("#/$defs/")], value, root),
    "type": lambda kinds, value, *_: any(
        _TYPES[kind](None, value) for kind in ([kinds] if isinstance(kinds, str) else kinds)
    ),
    "enum": lambda constants, value, *_: any(_is_same(value, constant) for constant in constants),
    "const": lambda constant, value, *_: _is_same(value, constant),
    "oneOf": lambda parts, value, _, root: sum(_passes(part, value, root) for part in parts) == 1,
    "required": lambda names, value, *_: not isinstance(value, dict) or all(name in value for name in names),
    "properties": lambda parts, value, _, root: (
        not isinstance(value, dict)
        or all(_passes(parts[name], item, root) for name, item in value.items() if name in parts)
    ),
    "additionalProperties": lambda part, value, schema, root: (
        not isinstance(value, dict)
        or all(
            part if isinstance(part, bool) else _passes(part, item, root)
            for name, item in value.items()
            if name not in schema.get("properties", ())
        )
    ),
    "items": lambda part, value, _, root: (
        not isinstance(value, list) or all(_passes(part, item, root) for item in value)
    ),
    "minItems": lambda least, value, *_: not isinstance(value, list) or len(value) >= least,
    "maxItems": lambda most, value, *_: not isinstance(value, list) or len(value) <= most,
    "minLength": lambda least, value, *_: not isinstance(value, str) or len(value) >= least,
    "pattern": lambda pattern, value, *_: not isinstance(value, str) or re.search(pattern, value) is not None,
    "minimum": lambda bound, value, *_: not _is_number(None, value) or value >= bound,
    "maximum": lambda bound, value, *_: not _is_number(None, value) or value <= bound,
    "exclusiveMinimum": lambda bound, value, *_: not _is_number(None, value) or value > bound,
    "exclusiveMaximum": lambda bound, value, *_: not _is_number(None, value) or value < bound,
}
