"""C++ against Python on one photo: total, decode and peak memory, interleaved, as ratios.

Each round runs a fresh process of each, one warm-up and three timed calls in it; the medians over all are compared.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

REPEAT = 3


def python_run(bundle: str, image: str, vocabulary: str) -> dict[str, object]:
    """In a process of its own: what scclip-segment-cpp --json reports, by the Python runtime."""
    import time

    from PIL import Image

    from scclip_rt import Segmenter

    pixels = np.asarray(Image.open(image).convert("RGB"))
    segmenter = Segmenter(bundle, vocabulary=vocabulary)
    stages: dict[str, list[float]] = {"total": [], "decode": [], "encode": []}
    for run in range(REPEAT + 1):
        start = time.perf_counter()
        outcome = segmenter.outcome(pixels)
        total = time.perf_counter() - start
        if run:
            stages["total"].append(total * 1e3)
            stages["encode"].append(outcome.timings.encode * 1e3)
            stages["decode"].append(outcome.timings.decode * 1e3)
    return {
        "milliseconds": {name: {"p50": statistics.median(values)} for name, values in stages.items()},
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def make_inputs(folder: Path, bundle: str, queries: int) -> tuple[str, str]:
    """A 375×500 photo and a vocabulary of random unit vectors: the work does not depend on what they mean."""
    from PIL import Image

    from scclip_rt.bundle.bundle import Bundle
    from scclip_rt.vocabulary.file import Vocabulary, save_vocabulary
    from synthetic import scene

    opened = Bundle.open(bundle)
    rows = np.random.default_rng(0).standard_normal((queries, opened.model.embed_dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = tuple(f"class {index}" for index in range(queries))
    vocabulary = Vocabulary(
        embeddings=rows,
        classes=names,
        queries=names,
        query_class=np.arange(queries),
        background=None,
        templates="none",
        text_model_sha256=opened.text_encoder.model_sha256,
    )
    save_vocabulary(vocabulary, folder / "v.safetensors", force=True)
    Image.fromarray(scene(375, 500, 1)).save(folder / "photo.png")
    return str(folder / "photo.png"), str(folder / "v.safetensors")


def measure(command: list[str]) -> dict[str, object]:
    """Run a process that prints JSON."""
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=150)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--python-run", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.python_run:
        print(json.dumps(python_run(arguments.bundle, *arguments.python_run)))
        return
    with tempfile.TemporaryDirectory() as folder:
        image, vocabulary = make_inputs(Path(folder), arguments.bundle, arguments.queries)
        cpp = [
            arguments.program,
            arguments.bundle,
            image,
            "--vocabulary",
            vocabulary,
            "--repeat",
            str(REPEAT),
            "--json",
        ]
        python = [sys.executable, __file__, arguments.bundle, "-", "--python-run", image, vocabulary]
        runs: dict[str, list[dict]] = {"cpp": [], "python": []}
        for index in range(arguments.rounds):
            for name, command in (("cpp", cpp), ("python", python))[:: 1 if index % 2 else -1]:
                runs[name].append(measure(command))
    report: dict[str, object] = {"rounds": arguments.rounds, "queries": arguments.queries}
    for stage in ("total", "encode", "decode"):
        medians = {n: statistics.median(r["milliseconds"][stage]["p50"] for r in runs[n]) for n in runs}
        report[stage] = medians | {"ratio": medians["cpp"] / medians["python"]}
    memory = {name: statistics.median(run["peak_memory_mb"] for run in runs[name]) for name in runs}
    report["peak_memory_mb"] = memory | {"ratio": memory["cpp"] / memory["python"]}
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
