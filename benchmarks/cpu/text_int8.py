"""A trial: what an int8 text encoder would gain, and what it would cost. No option of the exporter writes one.

    python -m benchmarks.cpu.text_int8 [--model demo] [--names 24] [--scenes 300] [--json FILE]

The bundle's text encoder is quantised by ONNX Runtime's own tool: int8 weights by channel, activations by batch. Both
embed the names (the demo's classes, or those of ADE20K) in 80 templates, in turn: processor seconds, and the cosine of
each name's two embeddings. With the demo model, `--scenes` are labelled with both, from the same features.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization import QuantType, quantize_dynamic

from benchmarks.harness import parser, ratios, spread, write_report
from benchmarks.models import add_model_options, bundle
from scclip_rt.backends.onnxruntime.encoder import OnnxRuntimeResumingText
from scclip_rt.backends.onnxruntime.session import load_onnxruntime
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.cpus import default_threads
from scclip_rt.demo.scenes import CLASSES
from scclip_rt.evaluation import open_dataset, open_segmenter
from scclip_rt.evaluation.datasets.benchmarks import BENCHMARKS
from scclip_rt.evaluation.evaluate import count, new_matrix
from scclip_rt.vocabulary.file import Vocabulary
from scclip_rt.vocabulary.open import TextTower
from scclip_rt.vocabulary.templates import load_templates


def towers(opened: Bundle, folder: Path) -> dict[str, TextTower]:
    """The bundle's text encoder as it is, and in int8."""
    graph = opened.text_encoder.resumed
    if graph is None:
        sys.exit("error: this bundle's text encoder does not resume; export it again")
    narrow = folder / graph.file
    quantize_dynamic(
        str(opened.checked_graph(graph.file)),
        str(narrow),
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm"],
        extra_options={"MatMulConstBOnly": True},
    )
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = default_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(narrow), options, providers=["CPUExecutionProvider"])
    text = OnnxRuntimeResumingText(session, opened.text_encoder, graph.file)
    return {"fp32": TextTower(opened), "int8": TextTower(opened, text=text)}


def embed(opened: Bundle, tower: TextTower, names: list[str]) -> tuple[float, Vocabulary]:
    """Processor seconds, and the vocabulary."""
    start = time.process_time()
    classes = tuple((name,) for name in names)
    made = tower.embed(classes, load_templates(opened.decoding.templates), background="none")
    return time.process_time() - start, made


def miou(opened: Bundle, vocabularies: dict[str, Vocabulary], scenes: int) -> dict[str, Any]:
    """Label scenes with both vocabularies."""
    dataset = open_dataset("demo")
    segmenter = open_segmenter(opened, dataset, precision="fast")
    background = segmenter.vocabulary.background
    matrices, same = {name: new_matrix(dataset) for name in vocabularies}, []
    for index in range(scenes):
        sample = dataset.samples[index]
        encoded = segmenter.encode(sample.image)
        results = {
            name: segmenter.decode(encoded, replace(vocabulary, background=background))
            for name, vocabulary in vocabularies.items()
        }
        for name, result in results.items():
            truth = sample.truth_for(result.labels.shape)
            matrices[name].counts += count(matrices[name], sample, result, truth)
        same.append(100 * (results["fp32"].labels == results["int8"].labels).mean())
    scores = {name: matrix.scores().miou for name, matrix in matrices.items()}
    return {"scenes": scenes, "miou": scores, "labels_equal": float(np.mean(same))}


def main() -> None:
    """Quantise, embed in turn, compare."""
    options = parser(__doc__)
    add_model_options(options)
    options.set_defaults(model="demo")
    options.add_argument("--names", type=int, default=24, help="(%(default)s)")
    options.add_argument("--pairs", type=int, default=3, help="(%(default)s)")
    options.add_argument("--scenes", type=int, default=300, help="with the demo model (%(default)s)")
    args = options.parse_args()
    opened = Bundle.open(bundle(args.model, args.work))
    listed = CLASSES if args.model == "demo" else [names[0] for names in BENCHMARKS["ade20k"].prompts()]
    names = list(listed[: args.names])
    with tempfile.TemporaryDirectory() as folder:
        both = towers(opened, Path(folder))
        made: dict[str, Vocabulary] = {}
        seconds: dict[str, list[float]] = {name: [] for name in both}
        for tower in both.values():
            embed(opened, tower, ["lamp post"])
        for _ in range(args.pairs):
            for name, tower in both.items():
                taken, made[name] = embed(opened, tower, names)
                seconds[name].append(taken)
    cosines = (made["fp32"].embeddings * made["int8"].embeddings).sum(axis=1)
    gain = ratios(seconds["fp32"], seconds["int8"])
    found: dict[str, Any] = {
        "model": args.model,
        "names": len(names),
        "processor_seconds": {name: statistics.median(taken) for name, taken in seconds.items()},
        "times_as_fast": statistics.median(gain),
        "cosine": {"mean": float(cosines.mean()), "least": float(cosines.min())},
    }
    if args.model == "demo":
        found |= miou(opened, made, args.scenes)
    print(f"{spread(gain)}; {found}")
    write_report(args.json, "an int8 text encoder beside float32", rows=[found])


if __name__ == "__main__":
    main()
