"""Where C++ libraries' words go."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def output_to(path: Path = Path(os.devnull)) -> Iterator[Path]:
    """Send standard output and error, also what C++ writes there, to a file.

    Yields:
        The file.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("w") as file:
        kept = [(number, os.dup(number)) for number in (1, 2)]
        try:
            for number, _ in kept:
                os.dup2(file.fileno(), number)
            yield path
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in kept:
                os.dup2(copy, number)
                os.close(copy)
