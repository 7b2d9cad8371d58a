"""`scclip-export --bake`: the runtime's command, after an export or on a bundle that exists."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest


def test_a_bundle_is_baked(export_cli: Callable[..., int], tmp_path: Path) -> None:
    output = tmp_path / "fields.onnx"
    options = (
        "--bake",
        "grass; sky",
        "--bake-output",
        output,
        "--bake-options",
        "--size 224 --result labels",
    )
    assert export_cli("--bundle", "demo", *options) == 0
    model = onnx.load(output)
    assert [result.name for result in model.graph.output] == ["labels"]
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][2:] == [224, 224]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--bake-options", "--size 224"), "--bake-output and --bake-options go with --bake"),
        (("--bake", "grass; sky", "--bake-options", "--sise 224"), "unknown argument"),
        (("--bake", "grass; sky", "--short-side", "224"), "--short-side would need another export"),
    ],
)
def test_wrong_options_show_before_any_work(
    export_cli: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    output = tmp_path / "a.onnx"
    try:
        code = export_cli(
            "--bundle", "demo", *options, *(["--bake-output", output] if "--bake" in options else [])
        )
    except SystemExit as error:  # argparse's way
        code = int(str(error.code))
    assert code == 2
    assert message in capsys.readouterr().err
    assert not output.exists()
