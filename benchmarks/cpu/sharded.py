"""Memory that reading a sharded checkpoint takes, beside its size.

    python -m benchmarks.cpu.sharded [--model huge --dtype float32 --shards 8]

Writes a Hugging Face checkpoint in equal shards (`huge` in float32: 10 GB; it needs 14 GB of memory), reads
it in a fresh process, and compares the peak of resident memory above that of the imports with the float32 model plus
the largest shard.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.harness import parser
from benchmarks.models import clip_state_dict
from stand_ins.layouts import hugging_face

_READ = """
import re, sys, safetensors.torch
from pathlib import Path
import torch
from scclip_export.checkpoint.read import load_checkpoint
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1e3
before = peak()
state = load_checkpoint(Path(sys.argv[1])).state
print(before, peak(), sum(t.numel() * 4 for t in state.values()) / 1e6)
"""


def write_shards(folder: Path, model: str, count: int, dtype: torch.dtype) -> float:
    """Write the checkpoint; return the largest shard's size in MB."""
    state = hugging_face(
        {name: torch.from_numpy(np.asarray(a)) for name, a in clip_state_dict(model).items()}
    )
    total = sum(t.numel() for t in state.values()) * dtype.itemsize
    shard: dict[str, torch.Tensor] = {}
    where: dict[str, str] = {}
    while state:
        name = next(iter(state))
        tensor = state.pop(name)
        shard[name] = tensor.to(dtype).contiguous() if tensor.is_floating_point() else tensor
        if not state or sum(t.nbytes for t in shard.values()) > total / count:
            file = f"model-{len(set(where.values())) + 1:05d}.safetensors"
            save_file(shard, folder / file)
            where |= dict.fromkeys(shard, file)
            shard = {}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return max(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6


def main() -> int:
    """Write, read in a fresh process, print; exit code 1 if it took 5 % more than the model and a shard."""
    options = parser(__doc__)
    options.add_argument("--model", choices=("tiny", "vitb16", "vitl14", "huge"), default="vitb16")
    options.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="(%(default)s)")
    options.add_argument("--shards", type=int, default=8)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shard = write_shards(folder, args.model, args.shards, getattr(torch, args.dtype))
        read = [sys.executable, "-c", _READ, str(folder)]
        printed = subprocess.run(read, check=True, capture_output=True, text=True).stdout
    before, peak, model = map(float, printed.split())
    print(
        f"peak {peak - before:.0f} MB above the imports; float32 model {model:.0f} MB, largest shard {shard:.0f} MB"
    )
    return int(peak - before > 1.05 * (model + shard))  # the allocator keeps a little


if __name__ == "__main__":
    sys.exit(main())
