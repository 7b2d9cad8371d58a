"""Benchmarks: each script answers one question, checks numbers before the clock, and writes JSON rows (README.md)."""

import sys
from pathlib import Path

# Weights, scenes and float64 oracles are those of the tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
