"""New class names in Node: from where their templates' beginnings end, beside the whole texts.

    make web && python -m benchmarks.cpu.web_names [--bundle FOLDER] [--rounds 5] [--json FILE]

Eight new names in 80 templates a round, by the bundle as it is and by the same without its resumed text encoder, in
turn in one process. The processor's time counts, user and system together. The gate: embeddings within 1e-5.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.cpu.web import WEB
from benchmarks.harness import parser, ratios, spread, write_report
from benchmarks.models import add_model_options, bundle

LARGEST_GAP = 1e-5


def without_resumed(source: Path, folder: Path) -> Path:
    """The same bundle by links, with a manifest that names no resumed text encoder."""
    target = folder / "whole.scclip"
    shutil.copytree(
        source, target, copy_function=lambda file, link: Path(link).symlink_to(Path(file).resolve())
    )
    manifest = target / "bundle.json"
    document = json.loads(manifest.read_text("utf-8"))
    if document["text_encoder"].pop("resumed", None) is None:
        sys.exit(f"error: {source} has no resumed text encoder; export it again")
    manifest.unlink()
    manifest.write_text(json.dumps(document), "utf-8")
    return target


def main() -> None:
    """Gate, clock, report."""
    options = parser(__doc__)
    add_model_options(options)
    options.add_argument("--bundle", type=Path, help="instead of a synthetic model's")
    options.add_argument("--rounds", type=int, default=5)
    args = options.parse_args()
    source = args.bundle or bundle(args.model, args.work)
    with tempfile.TemporaryDirectory() as name:
        whole = without_resumed(source, Path(name))
        command = [
            "node",
            "build/tools/bench.js",
            "names",
            str(args.rounds),
            str(source.resolve()),
            str(whole),
        ]
        done = subprocess.run(command, cwd=WEB, capture_output=True, text=True, check=True)
    rounds = [json.loads(line) for line in done.stdout.splitlines()]
    gap = max(one["difference"] for one in rounds)
    if not gap <= LARGEST_GAP:
        sys.exit(f"error: embeddings differ by {gap:.1e}")
    resumed, from_start = zip(*(one["processor_seconds"] for one in rounds), strict=True)
    pairs = ratios(resumed, from_start)
    median, other = statistics.median(resumed), statistics.median(from_start)
    print(f"{median:.2f} s of processor time, from the start {other:.2f} s: {spread(pairs)}")
    write_report(
        args.json,
        "What does going on from known beginnings save in Node?",
        names=8,
        largest_difference=gap,
        resumed_seconds=resumed,
        whole_seconds=from_start,
        median_ratio=statistics.median(pairs),
    )


if __name__ == "__main__":
    main()
