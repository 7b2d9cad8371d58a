"""Which specialisations of the Triton kernels are compiled ahead of time: argument types, constants, launch options.

`runtime_variants` go into bundles, for the runtime that has neither torch nor Triton. `model_variants` are
those that the torch model launches for ViT-B/16 and ViT-L/14 (heads of 64 channels), one per dtype:
compiled to know that they fit every target.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from scclip_kernels.triton import (
    anomaly,
    attention,
    finite,
    halves,
    linear,
    outlier_repair,
    residual_norm,
    resizing,
    similarity,
)
from scclip_kernels.triton import areas as _areas
from scclip_kernels.triton import decode as decoding
from scclip_kernels.variant import Variant

DTYPES = ("fp32", "fp16", "bf16")
_Sizes = Mapping[str, int]
_HOPPER = frozenset({90})
_OTHERS = frozenset({75, 80, 86, 87, 89, 100, 103, 110, 120, 121})
GRIDS = {
    "decode_columns": "x: num_cells * ceil(num_queries / BLOCK_Q), y: blocks of the strip",
    "decode_rows": "x: blocks of the strip, y: ceil(height / BLOCK_Y)",
    "count": "x: ceil(num_pixels / BLOCK), y: ceil(num_classes / CLASSES)",
    "keep": "x: ceil(num_queries / BLOCK)",
    "finite": "x: ceil(count / BLOCK)",
    "resize_windows": "x: ceil(3 * window_height * window_width / BLOCK), y: number of windows",
}


def _pointers(types: Mapping[str, str]) -> frozenset[str]:
    return frozenset(name for name, kind in types.items() if kind.startswith("*"))


def _variant(
    name: str, kernel: Any, types: dict[str, str], constants: dict[str, Any], **options: Any
) -> Variant:
    """A variant whose pointers are aligned; `types` may leave out int32 arguments."""
    full = {
        argument: types.get(argument, "i32") for argument in kernel.arg_names if argument not in constants
    }
    aligned = _pointers(full) | options.pop("aligned", frozenset())
    return Variant(name=name, kernel=kernel, types=full, constants=constants, aligned=aligned, **options)


def runtime_variants() -> Iterator[Variant]:
    """What a bundle carries: decode for both label types, its area rule and check, and cutting windows."""
    types = {
        "logits": "*fp32", "row_cells": "*i32", "column_span": "*i32", "column_band": "*fp32",
        "column_cells": "*i32", "strip": "*fp32", "logit_scale": "fp32",
    }  # fmt: skip
    sizes = {"BLOCK_X": decoding.BLOCK_X, "BLOCK_Q": decoding.BLOCK_Q}
    columns = decoding._decode_columns_kernel
    yield _variant("decode_columns", columns, types, sizes, num_warps=decoding.COLUMN_WARPS)
    for labels in ("u8", "u16"):
        for soft in (False, True):
            for masked in (False, True):
                types = {
                    "strip": "*fp32", "row_span": "*i32", "row_band": "*fp32", "query_class": "*i32",
                    "query_keep": "*u8", "labels": f"*{labels}", "confidence": "*fp32", "prob_threshold": "fp32",
                }  # fmt: skip
                constants = {"SOFT": soft, "MASKED": masked, **decoding.ROWS}
                options: dict[str, Any] = {"notes": {"labels": labels}, "max_registers": 128}
                yield _variant("decode_rows", decoding._decode_rows_kernel, types, constants, **options)
        count = {"BLOCK": _areas.COUNT_BLOCK, "CLASSES": _areas.COUNT_CLASSES}
        types = {"labels": f"*{labels}", "counts": "*i32"}
        yield _variant("count", _areas._count_kernel, types, count, notes={"labels": labels})
    types = {"counts": "*i32", "area_threshold": "*fp64", "query_class": "*i32", "query_keep": "*u8"}
    yield _variant("keep", _areas._keep_kernel, types, {"BLOCK": _areas.KEEP_BLOCK})
    types = {"values": "*fp32", "flag": "*i32", "count": "i64"}
    yield _variant("finite", finite._finite_kernel, types, {"BLOCK": finite.BLOCK})
    types = {
        "image": "*u8", "row_taps": "*i32", "column_taps": "*i32", "starts": "*i32", "windows": "*u8", "pitch": "i64",
    }  # fmt: skip
    whole = _variant("resize_windows", resizing._resize_windows_kernel, types, {"BLOCK": resizing.BLOCK})
    # The image may be somebody else's: a crop begins anywhere.
    yield replace(whole, aligned=whole.aligned - {"image"})


def model_variants(dtypes: tuple[str, ...] = DTYPES) -> Iterator[Variant]:
    """What the torch model launches, for contiguous tensors whose width is a multiple of 16."""
    for dtype in dtypes:
        yield from _of_dtype(dtype)
        if dtype != "fp32":
            yield from _of_trunk(dtype)
    halved = {"pair": "*fp16", "scale": "*fp32", "square": "*fp32"}
    widths: dict[str, Any] = {"aligned": frozenset({"width"})}
    constants = {"BLOCK_N": similarity.MEAN_BLOCK_N, "BLOCK_D": similarity.MEAN_BLOCK_D}
    types = halved | {"parts": "*fp32"}
    yield _variant("mean_similarity", similarity._mean_similarity_kernel, types, constants, **widths)
    types = halved | {"near": "*i32", "k_distance": "*fp32", "neighbors": "*i32"}
    sizes = {
        "k_distance": (anomaly.SIZES, None, (True,)),
        "k_distance_hopper": (anomaly.HOPPER, _HOPPER, (True,)),
    }
    sizes["k_distance_long"] = anomaly.LONG, None, (False,)
    sizes["k_distance_hopper_few"] = anomaly.HOPPER_FEW, _HOPPER, (True,)
    for name, (chosen, targets, forms) in sizes.items():
        blocks, launch = _launch_of(chosen)
        for whole in forms:
            constants = {"TOP": 32, "WHOLE": whole, **blocks}
            kernel = anomaly._k_distance_kernel
            yield _variant(name, kernel, types, constants, targets=targets, **widths, **launch)
    types = {"k_distance": "*fp32", "neighbors": "*i32", "scores": "*fp32"}
    constants = {"BLOCK": anomaly.SCORE_BLOCK, "TOP": 32}
    yield _variant("anomaly_score", anomaly._anomaly_score_kernel, types, constants)


def _of_dtype(dtype: str) -> Iterator[Variant]:
    narrow, notes = f"*{dtype}", {"dtype": dtype}
    strides = frozenset({"width", "guide_width", "head_dim"} | {f"{t}_{a}" for t in _STRIDED for a in "pbn"})
    options: dict[str, Any] = {"notes": notes, "aligned": strides}
    factors = {"pair": "*fp16", "scale": "*fp32", "square": "*fp32"}
    wide = dtype == "fp32"

    types = factors | {"features": narrow, "mean": "*fp32"}
    constants = {"stride_d": 1, "ROWS": halves.ROWS, "BLOCK_D": 1024, "CENTERED": True}
    yield _variant("halves", halves._halves_kernel, types, constants, num_warps=halves.WARPS, **options)

    types = {
        "patches": narrow,
        "guide": narrow,
        "scores": "*fp32",
        "out_patches": narrow,
        "out_guide": narrow,
    }
    blocks = {name: getattr(outlier_repair, name) for name in ("BLOCK_M", "BLOCK_N", "BLOCK_D")}
    constants = {"patches_d": 1, "guide_d": 1, **blocks}
    repair = outlier_repair._repair_kernel
    yield _variant("outlier_repair", repair, types, constants, max_registers=128, **options)

    types = factors | {
        "scratch": "*fp32",
        "mean": "*fp32",
        "floor": "fp32",
        "features": narrow,
        "out": narrow,
    }
    attended = types | {"value": narrow, "by_key": narrow}
    for suffix, own, others, targets, whole in _averages(wide):
        blocks, launch = _launch_of(own)
        constants = {"features_d": 1, "WHOLE": whole, **blocks}
        launch |= {"targets": targets, **options}
        yield _variant(f"aggregate{suffix}", similarity._aggregate_kernel, types, constants, **launch)
        blocks, launch = _launch_of(others)
        constants = {"WHOLE": whole, **blocks}
        launch |= {"targets": targets, **options}
        kernel = attention._attend_by_similarity_kernel
        yield _variant(f"attend_by_similarity{suffix}", kernel, attended, constants, **launch)

    blocks, launch = _launch_of(attention.WIDE if wide else attention.NARROW)
    types = {"key": narrow, "value": narrow, "out": narrow, "value_sum": narrow, "scale": "fp32"}
    constants = {"key_d": 1, "value_d": 1, "PASSES": 2, "HEAD": 64, **blocks}
    yield _variant("attend_by_key", attention._attend_by_key_kernel, types, constants, **options, **launch)


def _of_trunk(dtype: str) -> Iterator[Variant]:
    """Sums with norms, and the product with QuickGELU."""
    narrow, notes, aligned = f"*{dtype}", {"dtype": dtype}, frozenset({"width", "outer"})
    types = dict.fromkeys(("x", "weight", "bias", "out_sum"), "*fp32")
    types |= {"delta": narrow, "out_norm": narrow, "eps": "fp32"}
    constants: dict[str, Any] = {"ROWS": residual_norm.ROWS, "BLOCK_D": 1024, "ADDED": True}
    options: dict[str, Any] = {"notes": notes, "aligned": aligned, "num_warps": residual_norm.WARPS}
    yield _variant("add_layer_norm", residual_norm._add_layer_norm_kernel, types, constants, **options)
    types = dict.fromkeys(("x", "weight", "bias", "out"), narrow)
    for name, sizes, targets in (
        ("linear_quick_gelu", linear.SIZES, _OTHERS),
        ("linear_quick_gelu_hopper", linear.HOPPER, _HOPPER),
    ):
        blocks, launch = _launch_of(sizes)
        constants = {"GROUP": linear.GROUP, "EVEN": True, **blocks}
        launch |= {"notes": notes, "aligned": aligned, "targets": targets}
        yield _variant(name, linear._linear_quick_gelu_kernel, types, constants, **launch)


def _averages(wide: bool) -> Iterator[tuple[str, _Sizes, _Sizes, frozenset[int] | None, bool]]:
    """Sizes of aggregation and of attention by similarity: suffix of their names, both, targets, WHOLE."""
    if wide:
        yield "", similarity.WIDE, similarity.WIDE, None, False
        return
    yield "", similarity.NARROW, similarity.NARROW, _OTHERS, False
    yield "_hopper", similarity.HOPPER, attention.HOPPER, _HOPPER, True
    yield "_hopper_long", similarity.HOPPER_LONG, attention.HOPPER_LONG, _HOPPER, False


def _launch_of(sizes: _Sizes) -> tuple[dict[str, int], dict[str, Any]]:
    """Blocks, and the options of a launch."""
    launch = {name: sizes[name] for name in ("num_warps", "num_stages")}
    return {name: size for name, size in sizes.items() if name not in launch}, launch


_STRIDED = ("stride", "features", "patches", "guide", "key", "value")
