"""Fixtures of the runtime's tests."""

from pathlib import Path

import pytest

from tiny_bundle import build_bundle


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound bundle, shared: do not change it."""
    return build_bundle(tmp_path_factory.mktemp("bundles") / "tiny.scclip")


@pytest.fixture
def own_bundle(bundle_path: Path, tmp_path: Path) -> Path:
    """A copy of the bundle to damage."""
    copy = tmp_path / "own.scclip"
    copy.mkdir()
    for path in bundle_path.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy
