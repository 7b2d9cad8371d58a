"""JSON from strangers: what Python's reader lets through and C++, JSON itself or our code does not."""

import json
import math
from typing import Any

MAX_DEPTH = 64
"""Lists and objects within each other; our own files have six."""


def parse_json(text: str | bytes) -> Any:
    """Read a document.

    Raises:
        ValueError: not JSON, or NaN, an infinity, a number beyond float64, a lone surrogate, or nested
            deeper than `MAX_DEPTH`; says which.
    """
    try:
        document = json.loads(text, parse_constant=_no_constant, parse_float=_finite_float)
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None
    _check(document)
    return document


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is beyond float64")
    return value


def _check(document: Any) -> None:
    """Depth and surrogates, level by level: a hostile file must not exhaust the stack of whoever walks it later."""
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                _check_text(value)
            elif isinstance(value, list):
                below += value
            elif isinstance(value, dict):
                below += value.values()
                for key in value:
                    _check_text(key)
        if not below:
            return
        level = below
    raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def _check_text(text: str) -> None:
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("a string holds a lone surrogate")
