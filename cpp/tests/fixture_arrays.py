"""Arrays in files, with the JSON that finds them again."""

from pathlib import Path
from typing import Any

import numpy as np


class Fixtures:
    """A folder of raw arrays and the JSON that says what they are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def array(self, values: np.ndarray) -> dict[str, Any]:
        """Write an array; return what finds it again."""
        self.count += 1
        name = f"{self.count:04}.bin"
        (self.folder / name).write_bytes(np.ascontiguousarray(values).tobytes())
        return {"file": name, "shape": list(values.shape), "dtype": str(values.dtype)}


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random unit rows, float32."""
    rows = rng.standard_normal(shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
