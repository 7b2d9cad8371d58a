"""One 375×500 photo, 20 and 150 queries: the runtime beside the naive eager baseline.

    python benchmarks/photo.py [--arch vitb16] [--runs 7] [--json benchmarks/results/photo.json]

Weights are synthetic (tests/synthetic.py): the time of a matrix product does not depend on its numbers. Each side
runs in a process of its own, in turn with the other, so that a drift of the machine's speed meets both; first, labels
must be equal.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from environment import environment

from synthetic import clip_state_dict

QUERIES = (20, 150)
Segment = Callable[[NDArray[np.uint8], NDArray[np.float32]], NDArray[Any]]


def photo() -> NDArray[np.uint8]:
    """A cat, from scikit-image, at the size of a PASCAL VOC photo: uint8 (375, 500, 3)."""
    import cv2
    from skimage import data

    return np.asarray(cv2.resize(data.chelsea(), (500, 375), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def text(queries: int, embed_dim: int) -> NDArray[np.float32]:
    """Random unit query embeddings (queries, embed_dim)."""
    drawn = np.random.default_rng(0).standard_normal((queries, embed_dim)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def naive_segmenter(checkpoint: Path) -> Segment:
    """The baseline, on the same weights and with the calibration that the exporter picks."""
    import torch
    from naive_scclip import NaiveScclip

    from scclip_export.architecture import build_clip, infer_architecture
    from scclip_export.checkpoint import load_checkpoint
    from scclip_export.config import calibration_for

    loaded = load_checkpoint(checkpoint)
    architecture, _ = infer_architecture(loaded.state, loaded.hints)
    c = calibration_for(architecture.layers, architecture.patch_size)
    naive = NaiveScclip(
        clip=build_clip(architecture, loaded.state),
        pre=c.pre_layer,
        post=c.post_layer,
        multi=c.fusion_layers,
        res_cls=c.cls_residual,
    )

    def segment(image: NDArray[np.uint8], embeddings: NDArray[np.float32]) -> NDArray[Any]:
        return naive.segment(image, torch.from_numpy(embeddings), list(range(len(embeddings))))

    return segment


def runtime_segmenter(bundle: Path) -> Segment:
    """scclip_rt with its defaults."""
    from scclip_rt import Segmenter
    from scclip_rt.vocabulary import Vocabulary

    segmenter = Segmenter(bundle)
    sha = segmenter.bundle.manifest.text_encoder.model_sha256

    def segment(image: NDArray[np.uint8], embeddings: NDArray[np.float32]) -> NDArray[Any]:
        names = tuple(f"class {i}" for i in range(len(embeddings)))
        vocabulary = Vocabulary(
            embeddings=embeddings,
            classes=names,
            queries=names,
            query_class=np.arange(len(names)),
            background=None,
            templates="none",
            text_model_sha256=sha,
        )
        segmenter.set_classes(vocabulary=vocabulary)
        return segmenter(image).labels

    return segment


def serve(make: Callable[[Path], Segment], source: Path, connection: Connection) -> None:
    """A side of the comparison, in its own process: segments on request, tells time and peak memory."""
    segment = make(source)
    image = photo()
    while (request := connection.recv()) is not None:
        started = time.perf_counter()
        labels = segment(image, request)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        connection.send((seconds, peak, np.asarray(labels, dtype=np.int64)))


class Side:
    """The parent's end of one `serve` process."""

    def __init__(self, make: Callable[[Path], Segment], source: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, child = context.Pipe()
        self._process = context.Process(target=serve, args=(make, source, child), daemon=True)
        self._process.start()

    def run(self, embeddings: NDArray[np.float32]) -> tuple[float, int, NDArray[np.int64]]:
        """Return seconds, peak bytes of the process so far, and labels."""
        self._connection.send(embeddings)
        seconds, peak, labels = self._connection.recv()
        return seconds, peak, labels

    def close(self) -> None:
        """Let the process end."""
        self._connection.send(None)
        self._process.join()


def compare(queries: int, embed_dim: int, checkpoint: Path, bundle: Path, runs: int) -> dict[str, object]:
    """Time both sides in turn; fresh processes per query count, so that peak memory is that count's own."""
    embeddings = text(queries, embed_dim)
    naive, runtime = Side(naive_segmenter, checkpoint), Side(runtime_segmenter, bundle)
    agreement = float((naive.run(embeddings)[2] == runtime.run(embeddings)[2]).mean())
    if agreement < 0.9999:
        sys.exit(f"labels agree on {agreement:.4%} of pixels only: no timing of a wrong result")
    pairs = [(naive.run(embeddings), runtime.run(embeddings)) for _ in range(runs)]
    for side in (naive, runtime):
        side.close()
    ratios = [n[0] / r[0] for n, r in pairs]
    return {
        "queries": queries,
        "label_agreement": agreement,
        "naive_seconds": [round(n[0], 4) for n, _ in pairs],
        "runtime_seconds": [round(r[0], 4) for _, r in pairs],
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "naive_peak_bytes": pairs[-1][0][1],
        "runtime_peak_bytes": pairs[-1][1][1],
    }


def export(arch: str, directory: Path) -> tuple[Path, Path]:
    """Write the synthetic checkpoint and export it, unless both are there already."""
    from safetensors.numpy import save_file

    from scclip_export.cli import run

    checkpoint, bundle = directory / f"{arch}.safetensors", directory / f"{arch}.scclip"
    if not checkpoint.exists():
        save_file(clip_state_dict(arch), checkpoint)
    if not bundle.exists() and run(["--checkpoint", str(checkpoint), "--output", str(bundle)]):
        sys.exit("the export failed")
    return checkpoint, bundle


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table of medians."""
    lines = [
        "| queries | naive eager | scclip-rt | ratio (min–max) | peak memory, naive | scclip-rt | equal labels |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        naive, runtime = (statistics.median(row[f"{side}_seconds"]) for side in ("naive", "runtime"))
        peaks = [f"{row[f'{side}_peak_bytes'] / 1e6:.0f} MB" for side in ("naive", "runtime")]
        ratio = f"{row['ratio_median']:.2f}× ({row['ratio_min']:.2f}–{row['ratio_max']:.2f})"
        lines.append(
            f"| {row['queries']} | {naive:.2f} s | {runtime:.2f} s | {ratio} "
            f"| {peaks[0]} | {peaks[1]} | {row['label_agreement']:.4%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="vitb16", choices=("tiny", "vitb16", "vitl14"))
    parser.add_argument("--runs", type=int, default=7, help="timed pairs per query count (7)")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "scclip-bench", help="keeps the bundle"
    )
    parser.add_argument("--json", type=Path, help="write the rows here")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    checkpoint, bundle = export(args.arch, args.work)
    manifest = json.loads((bundle / "bundle.json").read_text())
    rows = [compare(q, manifest["model"]["embed_dim"], checkpoint, bundle, args.runs) for q in QUERIES]
    print(table(rows))
    if args.json:
        report = {
            "question": "one 375×500 photo against the naive eager baseline",
            "arch": args.arch,
            "checkpoint_sha256": manifest["model"]["checkpoint_sha256"],
            "environment": environment(),
            "rows": rows,
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
