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


def test_tensors_on_the_cpu_are_refused_without_the_interpreter() -> None:
    with pytest.raises(ValueError, match="needs tensors on an NVIDIA GPU; got cpu"):
        operations.anomaly_scores(torch.randn(1, 49, 8))
