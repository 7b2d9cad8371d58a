"""What is rescaled, what stays float, and where calibration images come from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scclip_export.errors import ExportError
from scclip_export.model.geometry import Geometry
from scclip_export.quantize import (
    Int8Options,
    Plan,
    calibration_windows,
    measure_sensitivity,
    sensitivity_table,
)
from scclip_export.quantize.observe import Observed
from scclip_export.quantize.plan import PlannedLayer, keep_float
from scclip_export.quantize.tune import (
    affine,
    choose_smoothing,
    fake_quantize,
    output_error,
    quantize,
    rescaled,
)
from scclip_export.quantize.weights import quantize_weight
from scclip_rt.errors import ImageError, ScclipError

GEOMETRY = Geometry(window=224, stride=112)
RNG = np.random.default_rng(0)


def observed(rows: np.ndarray) -> Observed:
    return Observed(low=rows.min(axis=0), high=rows.max(axis=0), rows=rows, tokens=196.0)


def outlier_channels() -> np.ndarray:
    """Tokens in which three channels are a hundred times the others."""
    rows = RNG.standard_normal((400, 96), dtype=np.float32)
    rows[:, [3, 40, 77]] *= 100
    return rows


def test_rescaling_rescues_outlier_channels() -> None:
    seen, weight = observed(outlier_channels()), RNG.standard_normal((96, 64), dtype=np.float32)
    weight[[3, 40, 77]] /= 100
    plain = quantize(seen, weight)
    factors = choose_smoothing(seen, weight)
    assert factors is not None
    smooth = quantize(rescaled(seen, factors), weight * factors[:, None])
    assert plain.error > 0.1
    assert smooth.error < 0.03


def test_the_tuned_range_is_about_as_good_as_the_best_of_the_usual_ones() -> None:
    rows = RNG.standard_normal((400, 96), dtype=np.float32)
    rows[::100] *= 50  # massive tokens
    seen, weight = observed(rows), RNG.standard_normal((96, 64), dtype=np.float32)
    tuned = quantize(seen, weight).error
    for low, high in ((rows.min(), rows.max()), np.percentile(rows, [0.01, 99.99])):
        assert tuned <= 1.1001 * error_with(float(low), float(high), rows[:384], weight)


def error_with(low: float, high: float, rows: np.ndarray, weight: np.ndarray) -> float:
    """Of a product whose input is rounded to a range."""
    levels, scale = quantize_weight(weight)
    return output_error(rows @ weight, fake_quantize(rows, *affine(low, high)) @ (levels * scale))


def test_ranges_hold_zero_and_ordinary_activations_are_close() -> None:
    rows = np.maximum(RNG.standard_normal((400, 96), dtype=np.float32), -0.17)
    weight = RNG.standard_normal((96, 64), dtype=np.float32)
    made = quantize(observed(rows), weight)
    assert 0 <= made.zero_point <= 255
    assert made.error < 0.03


def layers(**errors: float) -> dict[str, PlannedLayer]:
    quantized = quantize(observed(outlier_channels()), RNG.standard_normal((96, 8), dtype=np.float32))
    return {
        name: PlannedLayer(name=name, factors=None, quantized=replace(quantized, error=error), cost=0.04)
        for name, error in errors.items()
    }


def floats(made: dict[str, PlannedLayer]) -> list[str]:
    return [name for name, layer in made.items() if layer.keep_float]


def test_the_worst_layers_stay_float_within_their_share() -> None:
    given = layers(a=0.01, b=0.3, c=0.06, d=0.2)
    assert floats(keep_float(dict(given), Int8Options(float_share=0.1))) == ["b", "d"]
    assert floats(keep_float(dict(given), Int8Options(float_share=0.5))) == ["b", "c", "d"]
    assert floats(keep_float(dict(given), Int8Options(float_share=0.0))) == []


def test_layers_are_kept_float_by_pattern() -> None:
    given = layers(first=0.01, second=0.01)
    assert floats(keep_float(dict(given), Int8Options(keep_float=("sec*",)))) == ["second"]
    with pytest.raises(
        ExportError, match=r"--int8-keep-float third: no layer of that name; there are first, second"
    ):
        keep_float(dict(given), Int8Options(keep_float=("third",)))


def test_the_sensitivity_report_finds_a_spoilt_layer(
    demo_int8: tuple[Path, Plan], demo_fp32: Path, demo_windows: np.ndarray
) -> None:
    plan = demo_int8[1]
    name = "blocks.4.fc"
    spoilt = replace(plan.layers[name], quantized=replace(plan.layers[name].quantized, scale=2.0))
    few = {key: layer for key, layer in plan.layers.items() if key.startswith("blocks.4.")} | {name: spoilt}
    changed = replace(plan, layers={**plan.layers, **few})
    measured = measure_sensitivity(demo_fp32, changed, demo_windows[:1], lambda _: None, only=list(few))
    assert max(measured.alone, key=lambda key: measured.alone[key]) == name
    assert measured.together > 0.5 * measured.alone[name]
    table = sensitivity_table(changed, measured).splitlines()
    assert table[1].startswith(name)
    assert "cost" in table[0]
    assert table[-1].startswith("all int8 layers")


def test_calibration_windows_come_from_rendered_scenes_by_default() -> None:
    windows, source = calibration_windows(None, GEOMETRY, count=5)
    assert windows.shape == (5, 224, 224, 3)
    assert windows.dtype == np.uint8
    assert source == "3 rendered demo scenes"
    assert len({window.tobytes() for window in windows}) == 5


def test_calibration_windows_come_from_all_over_a_folder(tmp_path: Path) -> None:
    for index in range(6):
        Image.fromarray(np.full((240, 320, 3), 40 * index, np.uint8)).save(tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("no image")
    windows, source = calibration_windows(tmp_path, GEOMETRY, count=3)
    assert [int(window.mean()) for window in windows] == [0, 80, 200]
    assert source.startswith("3 images of ")
    many, _ = calibration_windows(tmp_path, GEOMETRY, count=12)
    assert len(many) == 12


def test_bad_calibration_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no such folder"):
        calibration_windows(tmp_path / "missing", GEOMETRY, count=3)
    with pytest.raises(ExportError, match=r"no image in it \(\.apng"):
        calibration_windows(tmp_path, GEOMETRY, count=3)
    (tmp_path / "broken.jpg").write_bytes(b"not a photo")
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        calibration_windows(tmp_path, GEOMETRY, count=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"windows": 0}, "calibration_windows must be a whole number from 1 to 4,096; got 0"),
        ({"float_share": 1.5}, "int8_float_share must be a number from 0 to 1; got 1.5"),
    ],
)
def test_options_check_themselves(values: dict, message: str) -> None:
    with pytest.raises(ScclipError, match=message):
        Int8Options(**values)
