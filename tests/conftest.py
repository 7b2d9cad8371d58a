"""Fixtures shared by all tests: synthetic checkpoints and the bundles made from them."""

import copy
import os
from collections.abc import Callable
from pathlib import Path

# A worker of pytest-xdist keeps to one CPU, before a library counts them: small models on many threads mostly wait.
if WORKER := os.environ.get("PYTEST_XDIST_WORKER"):
    _CPUS = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_CPUS[int(WORKER.removeprefix("gw")) % len(_CPUS)]})

import filelock
import hypothesis
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from synthetic import clip_state_dict

DATA = Path(__file__).parent / "data"

# A busy machine is no failure, and every run tries the same cases.
hypothesis.settings.register_profile(
    "steady", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("steady")


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests neither read nor fill the user's cache; embeddings are shared within a session."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    """A test sees the same random numbers in every run, whichever tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_state() -> dict[str, Tensor]:
    """The golden cases' weights: 12 blocks of width 128."""
    return {name: torch.from_numpy(np.array(value)) for name, value in clip_state_dict("tiny").items()}


@pytest.fixture(scope="session")
def micro_state(tiny_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Four image blocks of `tiny` and one text block: traced in seconds."""
    state = {
        name: tensor
        for name, tensor in tiny_state.items()
        if not any(name.startswith(f"visual.transformer.resblocks.{i}.") for i in range(4, 12))
        and not name.startswith("transformer.resblocks.1.")
    }
    last = "visual.transformer.resblocks.3.attn.out_proj.weight"
    return state | {last: state[last] * 60}


@pytest.fixture(scope="session")
def micro_checkpoint(micro_state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("micro") / "micro.safetensors"
    save_file(micro_state, path)
    return path


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    save_file(tiny_state, path)
    return path


@pytest.fixture(scope="session")
def export_cli() -> Callable[..., int]:
    """Run `scclip-export` in this process; return its exit code."""
    from scclip_export.cli.main import run

    def call(*arguments: str | Path) -> int:
        return run([str(argument) for argument in arguments])

    return call


@pytest.fixture(scope="session")
def export_once(
    export_cli: Callable[..., int], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Export a bundle that several tests read, once in a run, whichever worker comes first."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if WORKER else folder) / "exported"
    folder.mkdir(exist_ok=True)

    def export(name: str, checkpoint: Path, *options: str | Path) -> Path:
        path = folder / f"{name}.scclip"
        with filelock.FileLock(folder / f"{name}.lock"):
            if not path.exists():
                assert export_cli("--checkpoint", checkpoint, "--output", path, *options) == 0
        return path

    return export


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, export_once: Callable[..., Path]) -> Path:
    """The golden weights, exported by the command."""
    return export_once("tiny", tiny_checkpoint, "--debug-outputs", "--dynamic-grid")


@pytest.fixture(scope="session")
def micro_bundle(micro_checkpoint: Path, export_once: Callable[..., Path]) -> Path:
    """Four blocks, windows, one fixed and one dynamic grid."""
    options = ("--dynamic-grid", "--image-size", "96x160", "--fusion-layers", "1:3")
    return export_once("micro", micro_checkpoint, *options)


@pytest.fixture(scope="session")
def _micro_clip(micro_state: dict[str, Tensor]) -> torch.nn.Module:
    from scclip_export.checkpoint.architecture import build_clip, infer_architecture

    architecture, _ = infer_architecture(micro_state)
    return build_clip(architecture, micro_state)


@pytest.fixture
def micro_clip(_micro_clip: torch.nn.Module) -> torch.nn.Module:
    """open_clip's CLIP with the micro weights; a copy, so that a test may change it."""
    return copy.deepcopy(_micro_clip)
