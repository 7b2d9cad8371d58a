"""TF32 has the mantissa of float16: no float32 product may run in it, wherever one is asked for.

ONNX Runtime's providers and the torch set-up of benchmarks/gpu have tests beside theirs.
"""

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KERNELS = sorted((ROOT / "kernels/scclip_kernels/triton").glob("*.py"))
SOURCES = [
    path
    for folder in ("scclip_rt", "export", "kernels", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]


def test_every_product_of_a_kernel_is_ieee() -> None:
    """By name, also where the operands are float16 halves: a constant could be set otherwise by a launch."""
    dots = []
    for path in KERNELS:
        for call in calls(path):
            if isinstance(call.func, ast.Attribute) and call.func.attr in ("dot", "dot_scaled"):
                named = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                dots.append(named.get("input_precision"))
    assert len(dots) >= 6
    assert set(dots) == {"'ieee'"}


def test_nothing_turns_it_on() -> None:
    for path in SOURCES:
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and "allow_tf32" in ast.unparse(node):
                assert ast.unparse(node.value) == "False", f"{path}:{node.lineno}"
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert "set_float32_matmul_precision" not in name, f"{path}:{node.lineno}"
                assert not (name.endswith("set_flag") and "TF32" in ast.unparse(node)), (
                    f"{path}:{node.lineno}"
                )


@pytest.mark.tensorrt
@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx-cu13 is not installed"
)
def test_the_real_builder_has_it_on_and_ours_off() -> None:
    """TensorRT-RTX; TensorRT's own bindings are looked at in test_bindings.py, its life cycle in test_tensorrt.py."""
    import tensorrt_rtx as trt

    from scclip_export.engines import build

    config = trt.Builder(trt.Logger(trt.Logger.ERROR)).create_builder_config()
    assert config.get_flag(trt.BuilderFlag.TF32)
    stop = RuntimeError("what follows needs a network")

    class Builder:
        def create_optimization_profile(self) -> None:
            raise stop

    class Request:
        workspace = builder_level = None

    with pytest.raises(RuntimeError) as caught:
        build._configure(trt, Builder(), config, Request(), None, None, None)  # type: ignore[arg-type]
    assert caught.value is stop
    assert not config.get_flag(trt.BuilderFlag.TF32)
