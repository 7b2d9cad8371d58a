"""These tests need TRITON_INTERPRET=1 before Triton is first imported: `test_interpreted.py` gives them processes."""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
