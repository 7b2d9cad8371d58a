"""These tests need TRITON_INTERPRET=1 before Triton is first imported: `test_interpreted.py` gives them processes."""

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def _products_of_bfloat16(monkeypatch) -> None:
    """Triton's interpreter (3.8) keeps bfloat16 as uint16 and multiplies the bits as integers; multiply the numbers."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder

    multiply = InterpreterBuilder.create_dot

    def create_dot(self, a, b, *rest):
        a, b = (self.cast_impl(x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
        return multiply(self, a, b, *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)
