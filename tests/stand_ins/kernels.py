"""The runtime's compiled kernels, as Python functions for the fake CUDA driver, with the lists that a bundle carries.

Parameter names, types and order are those of `scclip_kernels.aot.variants` (a test compares them).
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stand_ins.cuda import IMAGE, FakeDriver

COLUMNS = {"BLOCK_X": 32, "BLOCK_Q": 32}
ROWS = {"BLOCK_X": 32, "BLOCK_Y": 4, "SLICES": 4, "FEW": 3, "MANY": 6, "UNROLL": 4}


def kernel_list(capability: str = "9.0", labels: tuple[str, ...] = ("u8", "u16")) -> list[dict[str, Any]]:
    """What kernels.json says of them."""
    items: list[dict[str, Any]] = []

    def add(title: str, parameters: list[list[str]], constants: dict[str, Any]) -> None:
        name = title.partition(" ")[0]
        entry = title.replace(" ", "_")
        items.append(
            {
                "name": name,
                "file": f"kernels/{entry}.sm{capability.replace('.', '')}.cubin",
                "compute_capability": capability,
                "entry": entry,
                "num_warps": 4,
                "shared_bytes": 1024,
                "parameters": parameters,
                "constants": constants,
                "hidden_pointers": 2,
            }
        )

    add("decode_columns", COLUMN_PARAMETERS, COLUMNS)
    for kind in labels:
        for soft in (False, True):
            for masked in (False, True):
                title = f"decode_rows {kind}{' soft' * soft}{' masked' * masked}"
                constants = {"SOFT": soft, "MASKED": masked, "labels": kind, **ROWS}
                add(title, row_parameters(kind), constants)
        counts = [["labels", f"*{kind}"], ["counts", "*i32"], ["num_pixels", "i32"], ["num_classes", "i32"]]
        add(f"count {kind}", counts, {"BLOCK": 4096, "CLASSES": 256, "labels": kind})
    keep = [["counts", "*i32"], ["area_threshold", "*fp64"], ["query_class", "*i32"], ["query_keep", "*u8"]]
    add(
        "keep",
        [*keep, ["num_queries", "i32"], ["num_classes", "i32"], ["background", "i32"]],
        {"BLOCK": 1024},
    )
    add("finite", [["values", "*fp32"], ["flag", "*i32"], ["count", "i64"]], {"BLOCK": 1024})
    resize = [[name, "*i32"] for name in ("row_taps", "column_taps", "starts")]
    sizes = [["pitch", "i64"], ["window_height", "i32"], ["window_width", "i32"]]
    add("resize_windows", [["image", "*u8"], *resize, ["windows", "*u8"], *sizes], {"BLOCK": 1024})
    return items


COLUMN_PARAMETERS = [
    ["logits", "*fp32"],
    ["row_cells", "*i32"],
    ["column_span", "*i32"],
    ["column_band", "*fp32"],
    ["column_cells", "*i32"],
    ["strip", "*fp32"],
    *[[name, "i32"] for name in ("first_block", "num_blocks", "num_cells", "num_queries", "band_cells")],
    ["logit_scale", "fp32"],
]


def row_parameters(labels: str) -> list[list[str]]:
    return [
        ["strip", "*fp32"],
        ["row_span", "*i32"],
        ["row_band", "*fp32"],
        ["query_class", "*i32"],
        ["query_keep", "*u8"],
        ["labels", f"*{labels}"],
        ["confidence", "*fp32"],
        *[
            [name, "i32"]
            for name in ("first_block", "height", "width", "num_cells", "num_queries", "band_cells")
        ],
        ["unlabelled", "i32"],
        ["fallback", "i32"],
        ["prob_threshold", "fp32"],
    ]


def add_kernels(root: Path, fake: FakeDriver, items: list[dict[str, Any]] | None = None) -> None:
    """Put the kernels into a bundle, and what they do into the driver."""
    items = kernel_list() if items is None else items
    (root / "kernels").mkdir(exist_ok=True)
    document = json.loads((root / "bundle.json").read_text("utf-8"))
    for item in items:
        content = IMAGE + item["entry"].encode()
        item["sha256"] = hashlib.sha256(content).hexdigest()
        (root / item["file"]).write_bytes(content)
        fake.kernels[item["entry"]] = _function(item)
    (root / "kernels" / "kernels.json").write_text(json.dumps(items), "utf-8")
    for path in (root / "kernels").iterdir():
        content = path.read_bytes()
        entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        document["files"][f"kernels/{path.name}"] = entry
    (root / "bundle.json").write_text(json.dumps(document), "utf-8")


def kernel_set(fake: FakeDriver, device: Any) -> Any:
    """The same without a bundle: a `KernelSet`."""
    from scclip_rt.backends.cuda import Kernel, KernelSet
    from scclip_rt.backends.cuda.kernels import _kernel

    kernels: dict[str, tuple[Kernel, ...]] = {}
    for item in kernel_list():
        fake.kernels[item["entry"]] = _function(item)
        kernel = Kernel(device, _kernel(item), IMAGE + item["entry"].encode())
        kernels[item["name"]] = (*kernels.get(item["name"], ()), kernel)
    return KernelSet(device, kernels, "")


def _function(item: dict[str, Any]) -> Callable[..., None]:
    names = [name for name, _ in item["parameters"]]
    kernels = {
        "decode_columns": _columns,
        "decode_rows": _rows,
        "count": _count,
        "keep": _keep,
        "finite": _finite,
    }
    work = (kernels | {"resize_windows": _resize}).get(item["name"])

    def run(fake: FakeDriver, grid: tuple[int, int, int], values: tuple[Any, ...]) -> None:
        assert work is not None, f"this version launches no {item['name']}"
        assert all(value is None for value in values[len(names) :]), "hidden pointers must be null"
        work(fake, grid, item["constants"], dict(zip(names, values, strict=False)))

    return run


def _bands(fake: FakeDriver, a: dict[str, Any], axis: str, blocks: int, block: int) -> Any:
    span = fake.view(a[f"{axis}_span"], (blocks, 2), np.int32)
    return span, fake.view(a[f"{axis}_band"], (blocks, a["band_cells"], block), np.float32)


def _columns(
    fake: FakeDriver, grid: tuple[int, int, int], constants: dict[str, Any], a: dict[str, Any]
) -> None:
    queries, cells, block = a["num_queries"], a["num_cells"], constants["BLOCK_X"]
    assert (grid[0], grid[2]) == (cells * -(-queries // constants["BLOCK_Q"]), 1)
    span, band = _bands(fake, a, "column", a["num_blocks"], block)
    strip = fake.view(a["strip"], (grid[1], queries, cells, block), np.float32)
    row_cells = fake.view(a["row_cells"], (cells,), np.int32).astype(np.int64)
    column_cells = fake.view(a["column_cells"], (int(span.sum(axis=1).max()),), np.int32)
    places = row_cells[:, None] + column_cells
    logits = fake.view(a["logits"], (int(places.max()) + 1, queries), np.float32)
    for index in range(min(grid[1], a["num_blocks"] - a["first_block"])):
        first, count = span[a["first_block"] + index]
        weights = band[a["first_block"] + index, :count]
        values = np.einsum("bx,abq->qax", weights, logits[places[:, first : first + count]])
        strip[index] = values * np.float32(a["logit_scale"])


def _rows(fake: FakeDriver, grid: tuple[int, int, int], constants: dict[str, Any], a: dict[str, Any]) -> None:
    height, width, queries = a["height"], a["width"], a["num_queries"]
    across, down = constants["BLOCK_X"], constants["BLOCK_Y"]
    assert grid[1:] == (-(-height // down), 1)
    span, band = _bands(fake, a, "row", grid[1], down)
    strip = fake.view(a["strip"], (grid[0], queries, a["num_cells"], across), np.float32)
    classes = fake.view(a["query_class"], (queries,), np.int32)
    all_labels = fake.view(a["labels"], (height, width), np.dtype(f"uint{constants['labels'][1:]}"))
    for block in range(grid[1]):
        for index in range(grid[0]):
            y, x = block * down, (a["first_block"] + index) * across
            if x >= width:
                continue
            first, count = span[block]
            values = np.einsum("ay,qax->yxq", band[block, :count], strip[index, :, first : first + count])
            values = values[: height - y, : width - x]
            kept = values
            if constants["MASKED"]:
                kept = np.where(fake.view(a["query_keep"], (queries,), np.uint8) != 0, values, -np.inf)
            labels = np.where(np.isneginf(kept.max(-1)), a["unlabelled"], classes[kept.argmax(-1)])
            place = np.s_[y : y + down, x : x + across]
            if constants["SOFT"]:
                peak = values.max(-1)
                total = np.exp(values - peak[..., None]).sum(-1)
                probability = np.exp(kept.max(-1) - peak) / total
                labels = np.where(probability < np.float32(a["prob_threshold"]), a["fallback"], labels)
                fake.view(a["confidence"], (height, width), np.float32)[place] = probability
            all_labels[place] = labels


def _count(
    fake: FakeDriver, grid: tuple[int, int, int], constants: dict[str, Any], a: dict[str, Any]
) -> None:
    labels = fake.view(a["labels"], (a["num_pixels"],), np.dtype(f"uint{constants['labels'][1:]}"))
    counts = np.bincount(labels, minlength=a["num_classes"])[: a["num_classes"]]
    fake.view(a["counts"], (a["num_classes"],), np.int32)[...] += counts.astype(np.int32)


def _keep(fake: FakeDriver, grid: tuple[int, int, int], constants: dict[str, Any], a: dict[str, Any]) -> None:
    counts = fake.view(a["counts"], (a["num_classes"],), np.int32).copy()
    background = a["background"]
    if background >= 0:
        counts[background] = 0
    limit = fake.view(a["area_threshold"], (1,), np.float64)[0] * counts.sum()
    classes = fake.view(a["query_class"], (a["num_queries"],), np.int32)
    keep = (counts[classes] > limit) | (classes == background)
    fake.view(a["query_keep"], (a["num_queries"],), np.uint8)[...] = keep


def _finite(
    fake: FakeDriver, grid: tuple[int, int, int], constants: dict[str, Any], a: dict[str, Any]
) -> None:
    assert grid == (-(-a["count"] // constants["BLOCK"]), 1, 1)
    if not np.isfinite(fake.view(a["values"], (a["count"],), np.float32)).all():
        fake.view(a["flag"], (1,), np.int32)[0] = 1


def _resize(
    fake: FakeDriver, grid: tuple[int, int, int], constants: dict[str, Any], a: dict[str, Any]
) -> None:
    h, w = a["window_height"], a["window_width"]
    assert grid == (-(-h * w * 3 // constants["BLOCK"]), grid[1], 1)
    starts = fake.view(a["starts"], (grid[1], 2), np.int32)
    height, width = (int(last) for last in starts.max(axis=0) + np.array([h, w]))
    rows = fake.view(a["row_taps"], (height, 4), np.int32)
    columns = fake.view(a["column_taps"], (width, 4), np.int32)
    used, pitch = int(rows[:, :2].max()) + 1, a["pitch"]
    wide = 3 * (int(columns[:, :2].max()) + 1)
    flat = fake.view(a["image"], ((used - 1) * pitch + wide,), np.uint8)
    image = np.stack([flat[row * pitch : row * pitch + wide] for row in range(used)]).reshape(used, -1, 3)
    out = fake.view(a["windows"], (grid[1], h, w, 3), np.uint8)
    for window, (top, left) in enumerate(starts):
        ys, xs = rows[top : top + h], columns[left : left + w]
        pixels = image.astype(np.int32)
        across = (pixels[:, xs[:, 0]] * xs[:, 2, None] + pixels[:, xs[:, 1]] * xs[:, 3, None]) >> 4
        joined = ((across[ys[:, 0]] * ys[:, 2, None, None]) >> 16) + (
            (across[ys[:, 1]] * ys[:, 3, None, None]) >> 16
        )
        out[window] = ((joined + 2) >> 2).astype(np.uint8)
