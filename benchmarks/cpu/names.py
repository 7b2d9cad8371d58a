"""What class names cost: the runtime's text encoder in float32 and in int8, and the official loop in torch.

    python -m benchmarks.cpu.names [--model vitb16] [--names 150] [--official 3] [--pairs 3] [--json FILE]
    python -m benchmarks.cpu.names --model demo [--scenes 300] [--json FILE]

The names (ADE20K's, or the demo's classes) in 80 templates, in turn in one process, text encoders loaded. The loop
takes one class at a time, 80 prompts of 77 tokens: every class costs it the same, so it is run on `--official` names
and told for all. The processor's time counts, user and system together. The gate: float32 within 1e-5 of the loop, int8
within the exporter's cosine. With the demo model, `--scenes` are labelled with both, from the same features.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness import parser, ratios, spread, write_report
from benchmarks.models import DEMO_CLASSES, add_model_options, checkpoint, exported
from oracles.text import embed_names
from scclip_export.checkpoint.architecture import build_clip, infer_architecture
from scclip_export.checkpoint.read import load_checkpoint
from scclip_export.parity import TEXT_COSINE
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.cpus import default_threads
from scclip_rt.demo.scenes import CLASSES
from scclip_rt.evaluation import open_dataset, open_segmenter
from scclip_rt.evaluation.datasets.benchmarks import BENCHMARKS
from scclip_rt.evaluation.evaluate import count, new_matrix
from scclip_rt.vocabulary.open import TextTower
from scclip_rt.vocabulary.templates import load_templates

TEMPLATES = load_templates("imagenet")
LARGEST_GAP = 1e-5


def embed(tower: TextTower, names: list[str]) -> NDArray[np.float32]:
    """(Q, E) by the runtime."""
    return tower.embed(tuple((name,) for name in names), TEMPLATES, background="none").embeddings


def used(work: Callable[[], NDArray[np.float32]]) -> tuple[float, NDArray[np.float32]]:
    """Seconds of the processor, and what was made."""
    start = time.process_time()
    made = work()
    return time.process_time() - start, made


def check(
    fp32: NDArray[np.float32], int8: NDArray[np.float32], loop: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The gate; returns the cosines of int8 with float32."""
    gap = float(np.abs(fp32[: len(loop)] - loop).max())
    if not gap <= LARGEST_GAP:
        sys.exit(f"error: the runtime is {gap:.1e} from the loop; nothing is told about time")
    cosines: NDArray[np.float32] = (fp32 * int8).sum(axis=1)
    if not cosines.min() >= TEXT_COSINE:
        sys.exit(f"error: int8's least cosine is {cosines.min():.4f}; nothing is told about time")
    return cosines


def miou(opened: Bundle, scenes: int) -> dict[str, Any]:
    """Label scenes with both vocabularies."""
    dataset = open_dataset("demo")
    segmenter = open_segmenter(opened, dataset, cache=False)
    int8 = open_segmenter(opened, dataset, cache=False, text_precision="int8").vocabulary
    background = segmenter.vocabulary.background
    vocabularies = {"fp32": segmenter.vocabulary, "int8": replace(int8, background=background)}
    matrices, same = {name: new_matrix(dataset) for name in vocabularies}, []
    for index in range(scenes):
        sample = dataset.samples[index]
        encoded = segmenter.encode(sample.image)
        results = {name: segmenter.decode(encoded, vocabulary) for name, vocabulary in vocabularies.items()}
        for name, result in results.items():
            truth = sample.truth_for(result.labels.shape)
            matrices[name].counts += count(matrices[name], sample, result, truth)
        same.append(100 * (results["fp32"].labels == results["int8"].labels).mean())
    scores = {name: matrix.scores().miou for name, matrix in matrices.items()}
    return {"scenes": scenes, "miou": scores, "labels_equal": float(np.mean(same))}


def main() -> None:
    """Gate, clock, report."""
    options = parser(__doc__)
    add_model_options(options)
    options.add_argument("--names", type=int, default=150, help="(%(default)s)")
    options.add_argument("--official", type=int, default=3, help="of them, by the loop (%(default)s)")
    options.add_argument("--pairs", type=int, default=3, help="(%(default)s)")
    options.add_argument("--scenes", type=int, default=300, help="with the demo model (%(default)s)")
    args = options.parse_args()
    own = ["--vocabulary", str(DEMO_CLASSES)] if args.model == "demo" else []
    opened = Bundle.open(exported(args.model, args.work, f"{args.model}-int8-text", ["--int8-text", *own]))
    listed = CLASSES if args.model == "demo" else [names[0] for names in BENCHMARKS["ade20k"].prompts()]
    names = list(listed[: args.names])
    few = names[: args.official]
    loaded = load_checkpoint(checkpoint(args.model, args.work))
    clip = build_clip(infer_architecture(loaded.state, loaded.claims)[0], loaded.state).eval()
    torch.set_num_threads(default_threads())
    towers = {precision: TextTower(opened, precision=precision) for precision in ("fp32", "int8")}
    sides: dict[str, Callable[[], NDArray[np.float32]]] = {
        "fp32": lambda: embed(towers["fp32"], names),
        "int8": lambda: embed(towers["int8"], names),
        "official": lambda: embed_names(clip, few, TEMPLATES.patterns).numpy(),
    }
    for tower in towers.values():
        embed(tower, ["lamp post"])
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    made: dict[str, NDArray[np.float32]] = {}
    for _ in range(args.pairs):
        for name, work in sides.items():
            taken, made[name] = used(work)
            seconds[name].append(taken)
    cosines = check(made["fp32"], made["int8"], made["official"])
    seconds["official"] = [taken * len(names) / len(few) for taken in seconds["official"]]
    gains = {
        "int8_over_fp32": ratios(seconds["fp32"], seconds["int8"]),
        "fp32_over_official": ratios(seconds["official"], seconds["fp32"]),
        "int8_over_official": ratios(seconds["official"], seconds["int8"]),
    }
    found: dict[str, Any] = {
        "model": args.model,
        "names": len(names),
        "official_names": len(few),
        "processor_seconds": seconds,
        "times_as_fast": gains,
        "cosine": {"mean": float(cosines.mean()), "least": float(cosines.min())},
    }
    if args.model == "demo":
        found |= miou(opened, args.scenes)
    for name, values in gains.items():
        print(f"{name}: {spread(values)}")
    print(
        {name: statistics.median(taken) for name, taken in seconds.items()},
        found["cosine"],
        found.get("miou", ""),
    )
    write_report(args.json, "class names: float32, int8 and the official loop", rows=[found])


if __name__ == "__main__":
    main()
