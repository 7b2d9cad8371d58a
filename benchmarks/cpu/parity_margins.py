"""Does parity refuse sound exports, or let damaged ones through? Many seeds, and graphs with one thing wrong.

    python -m benchmarks.cpu.parity_margins [--model tiny] [--seeds 100] [--statistics plain|real] [--damage 3]

Each seed's random checkpoint is traced to its window encoder and held to `check_encoder`. `--damage N` also spoils the
graphs of the first N seeds, one weight at a time: a matrix times 1.01, two heads swapped, a bias dropped. `real` gives
the weights what trained CLIPs have and random ones lack: LayerNorm gains from 0.1 to 10, and ten tokens 500 times as
long as the median, by one channel. Exit code 1 if a sound graph was refused or a damaged one passed.
"""

import functools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from benchmarks.harness import parser, write_report
from benchmarks.models import clip_state_dict
from scclip_export.checkpoint.architecture import build_clip, infer_architecture
from scclip_export.model.calibration import calibration_for
from scclip_export.model.encoder import CalibratedEncoder
from scclip_export.model.geometry import Geometry
from scclip_export.onnx.runners import decision_runner, onnx_runner
from scclip_export.onnx.trace import onnx_from_encoder
from scclip_export.parity import Parity, Reference, check_encoder, run_encoder
from scclip_export.verification import verification_images, verification_windows

State = dict[str, Tensor]
MARK, TARGET, NEURON, MASSIVE = 5, 17, 3, range(11, 191, 19)


def encoder_of(state: State) -> CalibratedEncoder:
    """The calibrated torch encoder of a state dict, for windows of its training size."""
    architecture, _ = infer_architecture(state)
    side = architecture.image_size // architecture.patch_size
    config = calibration_for(architecture.layers, architecture.patch_size)
    visual = build_clip(architecture, state).visual
    return CalibratedEncoder(visual, config, grid=(side, side)).eval()


def with_real_statistics(state: State, seed: int) -> State:
    """LayerNorm gains from 0.1 to 10, and tokens 500 times as long as the median from the first block on."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in state.items():
        if name.startswith("visual.transformer") and ".ln_" in name and name.endswith("weight"):
            spread = torch.rand(tensor.shape, generator=generator) * 2 - 1
            state[name] = tensor * 10**spread
            follows = name.replace("ln_1.weight", "attn.in_proj_weight").replace(
                "ln_2.weight", "mlp.c_fc.weight"
            )
            state[follows] = (
                state[follows] / 10**spread
            )  # the function stays what the random weights are scaled for
    mlp = "visual.transformer.resblocks.0.mlp"
    positions = len(state["visual.positional_embedding"])
    state["visual.positional_embedding"][[1 + i for i in MASSIVE if i + 1 < positions], MARK] = 60.0
    state[f"{mlp}.c_fc.weight"][NEURON] = 0.0
    state[f"{mlp}.c_fc.weight"][NEURON, MARK] = 3.0 / float(
        state["visual.transformer.resblocks.0.ln_2.weight"][MARK]
    )
    state[f"{mlp}.c_fc.bias"][NEURON] = -15.0
    state[f"{mlp}.c_proj.weight"][:, NEURON] = 0.0
    state[f"{mlp}.c_proj.weight"][TARGET, NEURON] = 1000.0
    with torch.inference_mode():
        encoder = encoder_of(state)
        window = torch.from_numpy(windows_of(encoder)[:1])
        norms = encoder.trunk(window).hidden[0][0, 1:].norm(dim=-1)
    state[f"{mlp}.c_proj.weight"][TARGET, NEURON] *= 500 * norms.median() / norms.max()
    return state


@functools.cache
def _images() -> list[NDArray[np.uint8]]:
    return verification_images(None)


def windows_of(encoder: CalibratedEncoder) -> NDArray[np.uint8]:
    """The windows that an export is checked on."""
    side = (encoder.grid or (0, 0))[0] * encoder.embedding.patch_size
    return verification_windows(_images(), Geometry(window=side, stride=side // 2))


def parity_of(reference: Reference, path: Path) -> Parity:
    """What the exporter would measure of a file."""
    runs = run_encoder(reference, onnx_runner(path))
    return check_encoder(reference, runs, decisions=functools.partial(decision_runner, path))


def damaged(path: Path, heads: int) -> Iterator[tuple[str, Path]]:
    """Files with one thing wrong each: spread over the depth of the graph.

    A uniform factor before ln_post or on the last projection changes no unit feature, and is no damage.
    """
    model = onnx.load(str(path))
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    matrices = [n for n, a in arrays.items() if a.ndim == 2 and min(a.shape) > 16 and a.dtype == np.float32]
    biases = [n for n, a in arrays.items() if a.ndim == 1 and len(a) > 16 and n.endswith("bias")]
    last = max((n for n in matrices), key=lambda n: list(arrays).index(n))
    chosen = [n for n in matrices[:: max(len(matrices) // 4, 1)] if n not in (last, "proj.weight")]
    spoiled = [(f"{name} × 1.01", name, arrays[name] * np.float32(1.01)) for name in chosen]
    chosen = biases[:: max(len(biases) // 4, 1)]
    spoiled += [(f"{name} dropped", name, np.zeros_like(arrays[name])) for name in chosen]
    for name in [n for n in matrices if "value" in n][:1]:
        square = arrays[name]
        swapped, head = square.copy(), square.shape[1] // heads
        swapped[:, :head], swapped[:, head : 2 * head] = square[:, head : 2 * head], square[:, :head]
        spoiled.append((f"{name}, two heads swapped", name, swapped))
    for what, name, array in spoiled:
        twin = onnx.ModelProto()
        twin.CopyFrom(model)
        next(t for t in twin.graph.initializer if t.name == name).CopyFrom(
            numpy_helper.from_array(array, name)
        )
        target = path.with_name("damaged.onnx")
        target.with_name("damaged.onnx.data").unlink(missing_ok=True)
        onnx.save(
            twin, str(target), save_as_external_data=True, location="damaged.onnx.data", size_threshold=1024
        )
        yield what, target


def main() -> int:
    """Try every seed; print a line each, and the counts."""
    options = parser(__doc__)
    options.add_argument("--model", choices=("tiny", "tiny14", "tiny32", "vitb16", "vitl14"), default="tiny")
    options.add_argument("--seeds", type=int, default=100)
    options.add_argument("--first", type=int, default=0, help="the first seed (0)")
    options.add_argument("--statistics", choices=("plain", "real"), default="plain")
    options.add_argument("--damage", type=int, default=0, metavar="N", help="spoil the first N seeds' graphs")
    args = options.parse_args()
    rows: list[dict[str, Any]] = []
    wrong = 0
    for seed in range(args.first, args.first + args.seeds):
        state = {name: torch.from_numpy(np.array(a)) for name, a in clip_state_dict(args.model, seed).items()}
        if args.statistics == "real":
            state = with_real_statistics(state, seed)
        encoder = encoder_of(state)
        reference = Reference.of(encoder, windows_of(encoder))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "encoder.onnx"
            patch = encoder.embedding.patch_size
            down, across = encoder.grid or (0, 0)
            onnx_from_encoder(encoder, path, opset=20, example_size=(down * patch, across * patch))
            parity = parity_of(reference, path)
            row = {"seed": seed, "passed": parity.passed} | parity.to_json()
            wrong += not parity.passed
            spoiled = damaged(path, encoder.blocks[0].num_heads) if seed < args.first + args.damage else ()
            row["damaged_that_passed"] = [what for what, file in spoiled if parity_of(reference, file).passed]
            wrong += len(row["damaged_that_passed"])
        rows.append(row)
        print(
            f"{args.model} {args.statistics} {seed}: {'passed' if parity.passed else f'REFUSED {parity.faults}'}, "
            f"features {parity.features_max_abs:.1e} of {parity.thresholds.max_abs:.1e}, "
            f"{parity.flipped_decisions} flipped in {parity.tied_windows} windows; "
            f"damaged that passed: {row['damaged_that_passed']}",
            flush=True,
        )
    passed = sum(row["passed"] for row in rows)
    print(
        f"{passed} of {len(rows)} passed, {sum(row['tied_windows'] > 0 for row in rows)} with a tie that flipped"
    )
    write_report(args.json, "what parity refuses", arguments=vars(args) | {"json": None}, rows=rows)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
