"""How long `Segmenter(bundle)` takes, beside another checkout of this repository, in pairs.

    python -m benchmarks.cpu.opening OTHER_CHECKOUT [--pairs 20] [--bundle demo]

Each measurement is a process of its own: imports and opening, from the first import to the open segmenter; hashes are
remembered (one run of each side goes first). Labels of the packaged scene must be equal before the clock counts. The
processor's time is given beside the clock's, as it moves less on a busy machine.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import parser

_CODE = """
import hashlib, json, sys, time
start = time.perf_counter()
from scclip_rt import Segmenter
segment = Segmenter(sys.argv[1])
opened, used = time.perf_counter(), time.process_time()
again = Segmenter(sys.argv[1])
print(json.dumps({
    "first": opened - start, "first, processor": used,
    "again": time.perf_counter() - opened, "again, processor": time.process_time() - used,
    "labels": hashlib.sha256(segment(sys.argv[2]).labels.tobytes()).hexdigest() if len(sys.argv) > 2 else None,
}))
"""


def measure(checkout: Path, bundle: str, image: str | None = None) -> dict[str, float]:
    """One process: seconds to the open segmenter, and of a second one in the same process."""
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    line = [sys.executable, "-c", _CODE, bundle, *([image] if image else [])]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True, cwd="/")
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def main() -> None:
    """Measure and print ratios, this checkout over the other: median and quartiles."""
    options = parser(__doc__)
    options.add_argument("other", type=lambda path: Path(path).resolve())
    options.add_argument("--pairs", type=int, default=20)
    options.add_argument("--bundle", default="demo")
    args = options.parse_args()
    here = Path(__file__).resolve().parents[2]
    scene = str(here / "scclip_rt" / "demo" / "scene.png")
    if len({measure(side, args.bundle, scene)["labels"] for side in (here, args.other)}) > 1:
        raise SystemExit("the labels differ: nothing is timed")
    pairs = [(measure(here, args.bundle), measure(args.other, args.bundle)) for _ in range(args.pairs)]
    for what in ("first", "first, processor", "again", "again, processor"):
        ratios = sorted(ours[what] / theirs[what] for ours, theirs in pairs)
        ours, theirs = (1000 * statistics.median(pair[side][what] for pair in pairs) for side in (0, 1))
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{what}: {ours:.0f} ms here, {theirs:.0f} ms there; ratio {middle:.3f} ({low:.3f}–{high:.3f})")


if __name__ == "__main__":
    main()
