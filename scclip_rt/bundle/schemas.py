"""The JSON schemas of the bundle's files, with numbers as all our readers take them."""

import functools
import json
import math
from importlib import resources
from typing import Any

_EXACT = 2**53  # float64 and JavaScript hold every integer up to here


@functools.cache
def validator(name: str) -> Any:
    """The validator of `NAME.schema.json`.

    JSON Schema calls 224.0 an integer, which C++ and Python do not take for one: integers are written as such, and no
    number is beyond what a reader can hold.
    """
    # Imported here: jsonschema takes 0.1 s, which `import scclip_rt` shall not.
    import jsonschema

    schema = json.loads(
        resources.files("scclip_rt").joinpath(f"bundle/schema/{name}.schema.json").read_text("utf-8")
    )
    base = jsonschema.Draft202012Validator
    types = base.TYPE_CHECKER.redefine_many({"integer": _is_integer, "number": _is_number})
    return jsonschema.validators.extend(base, type_checker=types)(schema)


def _is_integer(_: object, value: object) -> bool:
    return type(value) is int and abs(value) <= _EXACT


def _is_number(_: object, value: object) -> bool:
    return _is_integer(_, value) or (type(value) is float and math.isfinite(value))
