"""Evaluation: mIoU of a bundle on the published benchmarks, the demo scenes, or a user's own masks.

    from scclip_rt.evaluation import evaluate, open_dataset, open_segmenter

    dataset = open_dataset("voc21", root=Path("data"))
    segmenter = open_segmenter("vitb16.scclip", dataset)
    result = evaluate(segmenter, dataset, progress=True)
    result.scores.miou      # percent

docs/evaluation.md has the layouts, the settings and the definitions.
"""

from scclip_rt.evaluation.compare import Comparison, compare
from scclip_rt.evaluation.datasets import BENCHMARKS, DATASETS, Dataset, Sample, open_dataset
from scclip_rt.evaluation.errors import DatasetError
from scclip_rt.evaluation.evaluate import Evaluation, evaluate, open_segmenter
from scclip_rt.evaluation.metrics import ConfusionMatrix, Scores

__all__ = [
    "BENCHMARKS",
    "DATASETS",
    "Comparison",
    "ConfusionMatrix",
    "Dataset",
    "DatasetError",
    "Evaluation",
    "Sample",
    "Scores",
    "compare",
    "evaluate",
    "open_dataset",
    "open_segmenter",
]
