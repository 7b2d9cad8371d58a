"""The kernels as torch operators: traced with fake CUDA tensors, as torch.compile does, where there is no GPU."""

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode
from torch._subclasses.functional_tensor import FunctionalTensorMode, dispatch_functionalize
from torch.fx.experimental.proxy_tensor import make_fx

triton = pytest.importorskip("triton")
operations = pytest.importorskip("scclip_kernels.triton.operations")


KERNELS = [
    "_halves_kernel",
    "_k_distance_kernel",
    "_anomaly_score_kernel",
    "_repair_kernel",
    "_halves_kernel",
    "_aggregate_kernel",
    "_mean_similarity_kernel",
    "_attend_by_key_kernel",
    "_attend_by_similarity_kernel",
]


def kernels_of(function, *tensors) -> list[str]:
    """Names of the Triton kernels that `function` becomes when it is functionalised for Inductor, in order."""
    return names_in(make_fx(dispatch_functionalize(function, FunctionalTensorMode()))(*tensors).graph)


def names_in(graph: torch.fx.Graph) -> list[str]:
    from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table

    names = []
    for node in graph.nodes:
        if "triton_kernel_wrapper" in str(node.target):
            kernel = kernel_side_table.get_kernel(node.kwargs["kernel_idx"])
            while not isinstance(
                kernel, triton.JITFunction
            ):  # launch options make it an Autotuner of one choice
                kernel = kernel.fn
            names.append(kernel.__name__)
    return names


def calibrate(patches, guide, key, value):
    scores = operations.anomaly_scores(patches)
    patches, guide = operations.repair_outliers(patches, guide, scores, num_outliers=10, columns=14)
    mid = operations.similarity(guide)
    return operations.aggregate(patches, mid, 0.4) + operations.calibrated_attention(key, value, mid, 12)


def test_the_calibration_is_a_graph_of_kernels() -> None:
    with FakeTensorMode():
        tokens = torch.empty(6, 196, 768, dtype=torch.float16, device="cuda")
        pair = torch.empty(2, 6, 196, 768, dtype=torch.float16, device="cuda")
        names = kernels_of(calibrate, tokens, tokens, pair, pair)
        result = calibrate(tokens, tokens, pair, pair)
    assert names == KERNELS
    assert result.shape == tokens.shape
    assert result.dtype == torch.float16


@pytest.mark.parametrize("dynamic", [False, True])
def test_torch_compile_takes_the_calibration_as_one_graph(dynamic: bool) -> None:
    """Dynamo and AOTAutograd, up to the graph that Inductor would get; Inductor asks Triton for a driver."""
    graphs = []

    def compiler(module: torch.fx.GraphModule, _) -> torch.fx.GraphModule:
        graphs.append(names_in(module.graph))
        return module

    torch._dynamo.reset()
    compiled = torch.compile(
        calibrate, fullgraph=True, dynamic=dynamic, backend=aot_autograd(fw_compiler=compiler)
    )
    with FakeTensorMode(), torch.no_grad():
        tokens = torch.empty(6, 196, 768, dtype=torch.float16, device="cuda")
        pair = torch.empty(2, 6, 196, 768, dtype=torch.float16, device="cuda")
        result = compiled(tokens, tokens, pair, pair)
    torch._dynamo.reset()
    assert graphs == [KERNELS]
    assert (result.shape, result.dtype, result.device.type) == (tokens.shape, torch.float16, "cuda")


def trunk(tokens, delta, norm_weight, norm_bias, weight, bias):
    total, normed = operations.add_layer_norm(tokens, delta, norm_weight, norm_bias, 1e-5, torch.float16)
    _, alone = operations.add_layer_norm(total, None, norm_weight, norm_bias, 1e-5, torch.float16)
    return total, operations.linear_quick_gelu(normed + alone, weight, bias)


def test_the_trunk_between_its_products_is_kernels() -> None:
    with FakeTensorMode():
        tokens = torch.empty(197, 768, device="cuda")
        delta = torch.empty(197, 768, dtype=torch.float16, device="cuda")
        norm = torch.empty(768, device="cuda"), torch.empty(768, device="cuda")
        weight = torch.empty(3072, 768, dtype=torch.float16, device="cuda")
        bias = torch.empty(3072, dtype=torch.float16, device="cuda")
        names = kernels_of(trunk, tokens, delta, *norm, weight, bias)
        total, hidden = trunk(tokens, delta, *norm, weight, bias)
    assert names == ["_add_layer_norm_kernel", "_add_layer_norm_kernel", "_linear_quick_gelu_kernel"]
    assert (total.shape, total.dtype) == (tokens.shape, torch.float32)
    assert (hidden.shape, hidden.dtype) == ((197, 3072), torch.float16)


def test_tensors_on_the_cpu_are_refused_without_the_interpreter() -> None:
    with pytest.raises(ValueError, match="needs tensors on an NVIDIA GPU; got cpu"):
        operations.anomaly_scores(torch.randn(1, 49, 8))


def test_torch_compile_takes_an_encoder_on_kernels_as_one_graph(micro_clip) -> None:
    from scclip_export.model.calibration import CalibrationConfig
    from scclip_export.model.dtypes import POLICIES
    from scclip_export.model.encoder import CalibratedEncoder

    graphs = []

    def compiler(module: torch.fx.GraphModule, _) -> torch.fx.GraphModule:
        graphs.append(names_in(module.graph))
        return module

    calibration = CalibrationConfig(pre_layer=2, post_layer=1, fusion_layers=(1, 3), cls_residual=0.3)
    options = {"grid": (6, 7), "policy": POLICIES["fp16"], "kernels": "triton", "trunk": "triton"}
    encoder = CalibratedEncoder(micro_clip.visual, calibration, **options).requires_grad_(False).eval()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, torch.no_grad():
        encoder = encoder.to("cuda")
        torch._dynamo.reset()
        compiled = torch.compile(
            lambda windows: encoder.encode(encoder.trunk(windows), 6, 7)[0],
            fullgraph=True,
            dynamic=False,
            backend=aot_autograd(fw_compiler=compiler),
        )
        compiled(torch.empty(2, 96, 112, 3, dtype=torch.uint8, device="cuda"))
    torch._dynamo.reset()
    blocks = len(encoder.blocks)
    (names,) = graphs
    assert names.count("_linear_quick_gelu_kernel") == blocks
    assert names.count("_add_layer_norm_kernel") == 2 * blocks
    assert names.count("_repair_kernel") == 1
