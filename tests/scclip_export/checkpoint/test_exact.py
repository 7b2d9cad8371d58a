"""One model of each group of docs/checkpoints.md, from random weights through the graphs, beside open_clip's own."""

import re
from pathlib import Path
from typing import Any

import open_clip
import pytest

from benchmarks.tables.checkpoints import LIMIT, differences, refusal, small

BIDIRECTIONAL = {"no_causal_mask": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-3}}


def changed(vision: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    config = small(open_clip.get_model_config("ViT-B-32"))
    return config | {"vision_cfg": config["vision_cfg"] | vision, "text_cfg": config["text_cfg"] | text}


CONFIGS = {
    "plain": small(open_clip.get_model_config("ViT-H-14-quickgelu")),
    "timm": small(open_clip.get_model_config("MobileCLIP2-L-14")),
    "no tensor shows it": changed(
        {"norm_kwargs": {"eps": 1e-3}, "act_kwargs": {"approximate": "tanh"}, "no_ln_pre": True},
        BIDIRECTIONAL,
    ),
    "first token": changed({"ls_init_value": 0.1}, {"pool_type": "first", "no_causal_mask": True}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CONFIGS)
def test_the_graphs_are_open_clips_model(name: str, tmp_path: Path) -> None:
    assert max(differences(CONFIGS[name], tmp_path)) <= LIMIT


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ViT-B-16-SigLIP", "no class token|another tokenizer"),
        ("coca_ViT-B-32", "CoCa"),
        ("EVA02-B-16", "EVA"),
        ("PE-Core-B-16", "rotary positions"),
        ("RN50", "ResNet"),
        ("convnext_base_w", "convolutions"),
        ("MobileCLIP2-B", "convolutions"),
        ("roberta-ViT-B-32", "text tower is roberta-base"),
        ("ViT-H-14-worldwide", "another tokenizer"),
        ("ViT-H-14-CLIPA", "another tokenizer"),
        ("vit_relpos_medium_patch16_cls_224", "relative positions"),
        ("vit_medium_patch16_gap_256", "no class token"),
    ],
)
def test_what_is_refused_says_why(name: str, says: str) -> None:
    assert re.search(says, refusal(name) or "")
