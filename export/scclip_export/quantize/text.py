"""The text encoder in int8: calibrated on prompts around class names of common benchmarks and the user's own."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scclip_export.quantize.options import Int8Options, Progress
from scclip_export.quantize.plan import Plan, make_plan
from scclip_export.quantize.rewrite import write_int8
from scclip_rt.evaluation.datasets.benchmarks import BENCHMARKS
from scclip_rt.vocabulary.templates import TEMPLATE_SETS
from scclip_rt.vocabulary.tokenizer import Tokenizer

Ids = Sequence[int]
_TEMPLATES = list(dict.fromkeys(pattern for patterns in TEMPLATE_SETS.values() for pattern in patterns))
_OWN_PROMPTS = 4


def text_prompts(
    tokenizer: Tokenizer, context_length: int, own: Sequence[str] = ()
) -> tuple[list[Ids], list[Ids]]:
    """Token ids of prompts to calibrate on, and of others to check with.

    Every class name of the benchmarks, in one template each: the names take turns in the two lists, and the templates
    go round. So no such name is in both. The user's own names are in both, in different templates: a model that was
    trained on few words does more with those than with all others.

    Args:
        tokenizer: of the bundle.
        context_length: prompts of more tokens are left out.
        own: the user's names.
    """
    listed = {name for benchmark in BENCHMARKS.values() for names in benchmark.prompts() for name in names}
    texts = [_prompt(name, index) for index, name in enumerate(sorted(listed - {*own}))]
    calibrate, check = texts[::2], texts[1::2]
    for index, name in enumerate(own):
        calibrate += [_prompt(name, index + step) for step in range(_OWN_PROMPTS)]
        check.append(_prompt(name, index + _OWN_PROMPTS))
    mixed = np.random.default_rng(0).permutation(len(calibrate))  # ranges are tried on the first of them
    return (
        _fitting(tokenizer, [calibrate[index] for index in mixed], context_length),
        _fitting(tokenizer, check, context_length),
    )


def _prompt(name: str, index: int) -> str:
    return _TEMPLATES[7 * index % len(_TEMPLATES)].replace("{}", name)


def _fitting(tokenizer: Tokenizer, texts: Sequence[str], context_length: int) -> list[Ids]:
    return [ids for ids in tokenizer.encode(texts) if len(ids) <= context_length]


def quantize_text_encoder(
    source: Path, target: Path, prompts: Sequence[Ids], *, progress: Progress = lambda _: None
) -> Plan:
    """Quantise the text encoder as the image encoders are: one constant scale for each product's input.

    So an embedding does not depend on the names it is made beside.

    Args:
        source: the float32 encoder of whole texts.
        target: the int8 file; its weights go beside it.
        prompts: token ids to calibrate on.
        progress: is told of long steps.

    Returns:
        The plan, which `write_int8` applies to the same tower's resumed graph.

    Raises:
        ExportError: nothing can be quantised.
    """
    progress(f"calibrating {target.name} on {len(prompts)} prompts")
    runs: list[dict[str, NDArray[np.int64]]] = [{"tokens": np.array([ids], np.int64)} for ids in prompts]
    calibration = {"calibration_prompts": len(prompts)}
    plan = make_plan(source, runs, Int8Options(), calibration=calibration, progress=progress)
    if plan.float_layers:
        progress(f"float32 stay: {', '.join(plan.float_layers)}")
    write_int8(source, plan, target)
    return plan
