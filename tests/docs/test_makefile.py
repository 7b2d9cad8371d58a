"""`make demo` with a wrong Python says so, leaves nothing, and works once the right one is named."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def old_python(path: Path) -> Path:
    """What a Python 3.9 answers to the questions of the Makefile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.18" && exit 0\nexit 1\n')
    path.chmod(0o755)
    return path


def make(checkout: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *map(str, arguments)], cwd=checkout, capture_output=True, text=True, check=False
    )


def test_a_python_that_is_too_old_is_named_and_leaves_no_environment(checkout: Path) -> None:
    done = make(checkout, "demo", f"PYTHON={old_python(checkout / 'python3.9')}")
    assert done.returncode != 0
    assert "scclip-rt needs Python 3.11 or newer" in done.stderr
    assert "is Python 3.9.18" in done.stderr
    assert not (checkout / ".venv").exists()


def test_an_environment_of_an_old_python_is_made_anew(checkout: Path) -> None:
    old_python(checkout / ".venv/bin/python")
    for name in ("pyvenv.cfg", ".runtime"):  # it even says that it is complete
        (checkout / ".venv" / name).touch()
    planned = make(checkout, "--dry-run", "demo", f"PYTHON={sys.executable}").stdout
    assert "-m venv --clear .venv" in planned
    assert "pip install" in planned


def test_a_complete_environment_is_used_as_it_is(checkout: Path) -> None:
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/python").symlink_to(sys.executable)
    for name in ("pyvenv.cfg", ".runtime"):
        (checkout / ".venv" / name).touch()
    planned = make(checkout, "--dry-run", "demo").stdout
    assert "scclip segment demo" in planned
    assert "venv --clear" not in planned
    assert "pip install" not in planned
