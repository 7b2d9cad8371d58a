"""Every layout a CLIP checkpoint comes in gives the same tensors; what is not one is refused in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from scclip_export.checkpoint.read import load_checkpoint
from scclip_export.errors import CheckpointError
from stand_ins.layouts import custom_text, hugging_face, save_torchscript

State = dict[str, Tensor]


WRITERS: dict[str, tuple[str, Callable[[State, Path], Any]]] = {
    "safetensors": ("a.safetensors", save_file),
    "torch state dict": ("a.pt", torch.save),
    "training checkpoint": (
        "a.pt",
        lambda s, p: torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in s.items()}}, p),
    ),
    "compiled model": ("a.bin", lambda s, p: torch.save({f"_orig_mod.{k}": v for k, v in s.items()}, p)),
    "torchscript": ("a.pt", save_torchscript),
    "custom text": ("a.safetensors", lambda s, p: save_file(custom_text(s), p)),
    "hugging face": ("model.safetensors", lambda s, p: save_file(hugging_face(s), p)),
    "safetensors by content": ("weights", save_file),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_gives_the_same_tensors(layout: str, micro_state: State, tmp_path: Path) -> None:
    name, write = WRITERS[layout]
    write(micro_state, tmp_path / name)
    state = load_checkpoint(tmp_path / name).state
    assert state.keys() == micro_state.keys()
    assert all(torch.equal(state[key], micro_state[key]) for key in state)


def test_float32_weights_are_not_rounded_and_half_ones_become_float32(
    micro_state: State, tmp_path: Path
) -> None:
    save_file({name: tensor.half() for name, tensor in micro_state.items()}, tmp_path / "half.safetensors")
    state = load_checkpoint(tmp_path / "half.safetensors").state
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    assert torch.equal(state["visual.proj"], micro_state["visual.proj"].half().float())


def test_pruned_token_table_is_expanded(micro_state: State, tmp_path: Path) -> None:
    index = torch.zeros(49408, dtype=torch.int32)
    index[[5, 9]] = torch.tensor([1, 2], dtype=torch.int32)
    table = torch.randn(3, 64)
    pruned = micro_state | {"token_embedding.weight": table, "token_embedding.index": index}
    save_file(pruned, tmp_path / "pruned.safetensors")
    full = load_checkpoint(tmp_path / "pruned.safetensors").state["token_embedding.weight"]
    assert full.shape == (49408, 64)
    assert torch.equal(full[[5, 9, 0, 7]], table[[1, 2, 0, 0]])


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code ran",))


def _truncate(state: State, path: Path) -> None:
    save_file(state, path)
    path.write_bytes(path.read_bytes()[:10_000])


def _with(state: State, **changes: Tensor | None) -> State:
    out = {**state, **{k: v for k, v in changes.items() if v is not None}}
    return {k: v for k, v in out.items() if k not in changes or changes[k] is not None}


BAD: dict[str, tuple[str, Callable[[State, Path], Any], str]] = {
    "truncated safetensors": ("a.safetensors", _truncate, "not a readable safetensors file"),
    "text file": ("a.pt", lambda _, p: p.write_text("hello"), "not a readable checkpoint"),
    "empty file": ("a.pt", lambda _, p: p.write_bytes(b""), "not a readable checkpoint"),
    "pickled code": ("a.pt", lambda _, p: torch.save({"a": _Evil()}, p), "never pickled code"),
    "list": ("a.pt", lambda _, p: torch.save([1, 2], p), "holds a list, not a state dict"),
    "no tensors": ("a.pt", lambda _, p: torch.save({}, p), "it holds no tensors"),
    "resnet": (
        "a.pt",
        lambda _, p: torch.save({"visual.layer1.0.conv1.weight": torch.ones(1)}, p),
        "CLIP ResNet",
    ),
    "timm": ("a.pt", lambda _, p: torch.save({"visual.trunk.pos_embed": torch.ones(1)}, p), "timm model"),
    "another model": (
        "a.pt",
        lambda _, p: torch.save({"fc.weight": torch.ones(1)}, p),
        "no `visual.conv1.weight`",
    ),
    "image tower only": (
        "a.pt",
        lambda s, p: torch.save({k: v for k, v in s.items() if k.startswith("visual.")}, p),
        "not its text transformer",
    ),
    "nan": (
        "a.pt",
        lambda s, p: torch.save(_with(s, **{"visual.ln_pre.bias": torch.full((128,), float("nan"))}), p),
        "visual.ln_pre.bias holds 128 NaN or infinite values of 128",
    ),
    "sparse": (
        "a.pt",
        lambda s, p: torch.save(_with(s, **{"visual.proj": s["visual.proj"].to_sparse()}), p),
        "tensor visual.proj is sparse",
    ),
    "without values": (
        "a.pt",
        lambda s, p: torch.save(_with(s, **{"visual.proj": s["visual.proj"].to("meta")}), p),
        "tensor visual.proj is without values",
    ),
    "quantised": (
        "a.pt",
        lambda s, p: torch.save(
            _with(s, **{"visual.proj": torch.quantize_per_tensor(s["visual.proj"], 0.1, 0, torch.qint8)}), p
        ),
        "tensor visual.proj is quantised",
    ),
    "integers": (
        "a.safetensors",
        lambda s, p: save_file(s | {"visual.proj": s["visual.proj"].to(torch.int8)}, p),
        "visual.proj holds int8, not floating point",
    ),
    "complex": (
        "a.safetensors",
        lambda s, p: save_file(s | {"visual.proj": s["visual.proj"].to(torch.complex64)}, p),
        "visual.proj holds complex64, not floating point",
    ),
    "hugging face with a hole": (
        "model.safetensors",
        lambda s, p: save_file({k: v for k, v in hugging_face(s).items() if "fc1" not in k}, p),
        "lacks the tensor",
    ),
    "index outside the table": (
        "a.safetensors",
        lambda s, p: save_file(s | {"token_embedding.index": torch.tensor([99999999])}, p),
        "points outside the table",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_a_clip_vit_is_refused_in_one_line(
    case: str, micro_state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, write, message = BAD[case]
    write(micro_state, tmp_path / name)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / name)
    assert message in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "code ran" not in capsys.readouterr().out


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "none.pt")
