"""Plug-ins as TensorRT gets them: PTX with the declared parameters alone, in its order, that assembles and fits."""

import re
import subprocess
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

from scclip_kernels.aot.compile import Compiled, CompileError, compile_variant, resources, without_hidden  # noqa: E402
from scclip_kernels.plugins.plugins import MAX_SHARED_BYTES, plugin_kernel, plugin_variants  # noqa: E402
from scclip_kernels.plugins.table import PLUGINS  # noqa: E402


def assemble(ptx: str, target: int, path: Path) -> bytes:
    """A cubin, by the assembler of Triton's wheel."""
    from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability

    (path / "kernel.ptx").write_text(ptx)
    command = [get_ptxas(target).path, f"--gpu-name={sm_arch_from_capability(target)}", "-o"]
    command += [str(path / "kernel.cubin"), str(path / "kernel.ptx")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return (path / "kernel.cubin").read_bytes()


@pytest.mark.parametrize("variant", plugin_variants(), ids=lambda variant: variant.title)
def test_the_ptx_takes_what_tensorrt_passes_and_nothing_else(variant, tmp_path: Path) -> None:
    compiled = compile_variant(variant, 90)
    compiled.check()
    assert compiled.shared_bytes <= MAX_SHARED_BYTES
    assert compiled.hidden_pointers == 2  # Triton's scratch memory: nothing would fill these
    ptx = without_hidden(compiled)
    plugin = PLUGINS[variant.name.removesuffix("_plugin")]
    entry = re.search(rf"\.entry {compiled.entry}\((.*?)\)", ptx, re.DOTALL).group(1)
    declared = [line.split()[1] for line in entry.strip().split("\n")]
    expected = (
        [".u64"] * len(plugin.inputs) + [".u32"] * len(plugin.integers) + [".u64"] * len(plugin.outputs)
    )
    assert declared == expected
    assert f".reqntid {32 * compiled.num_warps}" in ptx
    assert str(Path(__file__).parents[2]) not in ptx  # no folder of this machine goes into an engine
    registers, spilled = resources(assemble(ptx, 90, tmp_path), compiled.entry)
    assert (registers, spilled) == (compiled.registers, 0)


def test_a_kernel_that_reads_a_hidden_parameter_is_refused() -> None:
    def made(body: str, parameters: str = ".param .u64 k_param_0,\n.param .u64 k_param_1") -> Compiled:
        return Compiled(
            name="k", title="k", target=90, entry="k", num_warps=4, shared_bytes=0, registers=1, spill_bytes=0,
            parameters=(("x", "*fp32"),), constants={}, hidden_pointers=1, cubin=b"",
            ptx=f".visible .entry k(\n{parameters}\n)\n{{ {body} }}",
        )  # fmt: skip

    assert without_hidden(made("ld.param.u64 %r, [k_param_0];")).count(".param .u64") == 1
    with pytest.raises(CompileError, match="reads Triton's scratch memory"):
        without_hidden(made("ld.param.u64 %r, [k_param_1];"))
    with pytest.raises(CompileError, match="the PTX declares"):
        without_hidden(made("", ".param .u64 k_param_0"))


def test_what_the_table_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="no plug-in 'decode'; there are halves"):
        plugin_kernel("decode", "fp16", {})
    with pytest.raises(ValueError, match="takes width, floor; got width"):
        plugin_kernel("aggregate", "fp16", {"width": 64})
