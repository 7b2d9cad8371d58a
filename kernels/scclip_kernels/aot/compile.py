"""Compile the fused kernels ahead of time, on any machine: `python -m scclip_kernels.aot.compile --targets 80,90`.

Without --output, every kernel is compiled for every target and its resources are printed. With --output
DIR, the runtime's kernels are written as DIR/kernels/*.cubin with DIR/kernels/kernels.json
(docs/bundle.md). A kernel that spills registers or needs more shared memory than its target has is refused:
exit code 2.
"""

import argparse
import hashlib
import json
import multiprocessing
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

# What bundles get: code for 8.0 runs on every 8.x, from 9.0 on code runs on its own target alone.
TARGETS = (80, 90, 100, 120)
# Most shared memory one block may ask for, bytes (CUDA programming guide, technical specifications per
# compute capability). Code for 8.0 has to fit the later 8.x, which have less than 8.0 itself.
SHARED_LIMIT = {75: 64 << 10, 80: 99 << 10, 86: 99 << 10, 87: 163 << 10, 89: 99 << 10, 90: 227 << 10,
                100: 227 << 10, 103: 227 << 10, 110: 227 << 10, 120: 99 << 10, 121: 99 << 10}  # fmt: skip
KERNEL_LIST = "kernels/kernels.json"


class CompileError(Exception):
    """A kernel can't be compiled, or doesn't fit its target; the message says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """One kernel, compiled for one target.

    Attributes:
        name: of the operation.
        title: unique among the variants.
        target: 89 for compute capability 8.9.
        entry: the function's name in `cubin`.
        num_warps: threads per block are 32 times this.
        shared_bytes: dynamic shared memory per block.
        registers: per thread.
        spill_bytes: local memory and stack per thread; 0 unless registers were spilled.
        parameters: (name, Triton type) of what a launch passes, in order.
        constants: what was fixed at compile time.
        hidden_pointers: how many null pointers a launch passes after the parameters (Triton's scratch memory).
        cubin: machine code.
        ptx: its source.
    """

    name: str
    title: str
    target: int
    entry: str
    num_warps: int
    shared_bytes: int
    registers: int
    spill_bytes: int
    parameters: tuple[tuple[str, str], ...]
    constants: dict[str, Any]
    hidden_pointers: int
    cubin: bytes
    ptx: str

    @property
    def file(self) -> str:
        """Path in a bundle."""
        return f"kernels/{self.title}.sm{self.target}.cubin"

    def check(self) -> None:
        """Refuse spills and too much shared memory.

        Raises:
            CompileError: either.
        """
        if self.spill_bytes:
            raise CompileError(
                f"{self.title} for sm_{self.target} spills {self.spill_bytes} bytes per thread"
            )
        limit = SHARED_LIMIT[self.target]
        if self.shared_bytes > limit:
            raise CompileError(
                f"{self.title} for sm_{self.target} needs {self.shared_bytes:,} bytes of shared memory; "
                f"a block has at most {limit:,}"
            )

    def entry_of_list(self) -> dict[str, Any]:
        """What kernels.json says of it."""
        from scclip_kernels.aot.variants import GRIDS

        return {
            "name": self.name,
            "file": self.file,
            "sha256": hashlib.sha256(self.cubin).hexdigest(),
            "compute_capability": f"{self.target // 10}.{self.target % 10}",
            "entry": self.entry,
            "num_warps": self.num_warps,
            "shared_bytes": self.shared_bytes,
            "parameters": [list(parameter) for parameter in self.parameters],
            "constants": self.constants,
            "hidden_pointers": self.hidden_pointers,
            "grid": GRIDS.get(self.name, ""),
        }


def compile_variant(variant: Any, target: int) -> Compiled:
    """Compile one `scclip_kernels.aot.variants.Variant`; needs no GPU.

    Args:
        variant: the kernel with its types and constants.
        target: 89 for compute capability 8.9.

    Raises:
        CompileError: Triton can't compile it.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if not isinstance(variant.kernel, triton.JITFunction):
        raise CompileError(
            "TRITON_INTERPRET is set, which makes Triton interpret kernels; unset it to compile"
        )
    order = variant.kernel.arg_names
    signature = {name: variant.types.get(name, "constexpr") for name in order}
    attributes = {
        (order.index(name),): [["tt.divisibility", 16]] for name in variant.aligned if name in variant.types
    }
    source = ASTSource(variant.kernel, signature, dict(variant.constants), attributes)
    options = {
        "num_warps": variant.num_warps,
        "num_stages": variant.num_stages,
        "maxnreg": variant.max_registers,
    }
    try:
        with triton.knobs.compilation.scope():
            triton.knobs.compilation.disable_line_info = True  # it names folders of this machine
            done = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)
    except Exception as error:
        raise CompileError(f"{variant.title} for sm_{target}: {type(error).__name__}: {error}") from error
    cubin, ptx = done.asm["cubin"], done.asm["ptx"]
    registers, spill_bytes = resources(cubin, done.metadata.name)
    if done.metadata.global_scratch_size or done.metadata.profile_scratch_size:
        raise CompileError(
            f"{variant.title} for sm_{target} needs scratch memory, which no launcher here provides"
        )
    return Compiled(
        name=variant.name,
        title=variant.title,
        target=target,
        entry=done.metadata.name,
        num_warps=done.metadata.num_warps,
        shared_bytes=done.metadata.shared,
        registers=registers,
        spill_bytes=spill_bytes,
        parameters=tuple(variant.types.items()),
        constants=dict(variant.constants) | dict(variant.notes),
        hidden_pointers=count_parameters(ptx, done.metadata.name) - len(variant.types),
        cubin=cubin,
        ptx=ptx,
    )


def resources(cubin: bytes, entry: str) -> tuple[int, int]:
    """Return registers and bytes of local memory and stack per thread, read from machine code.

    Raises:
        CompileError: cuobjdump (of Triton's wheel) fails or says nothing about `entry`.
    """
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(file)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(rf"Function {re.escape(entry)}:\s*(.*)", run.stdout)
    usage = dict(re.findall(r"(\w+):(\d+)", found.group(1))) if found else {}
    if not {"REG", "STACK", "LOCAL"} <= usage.keys():
        raise CompileError(f"cuobjdump says nothing about {entry}: {run.stdout.strip()} {run.stderr.strip()}")
    return int(usage["REG"]), int(usage["STACK"]) + int(usage["LOCAL"])


def count_parameters(ptx: str, entry: str) -> int:
    """How many parameters the entry of a PTX file declares, Triton's hidden ones included."""
    found = re.search(rf"\.entry {re.escape(entry)}\((.*?)\)", ptx, re.DOTALL)
    if not found:
        raise CompileError(f"the PTX has no entry {entry!r}")
    return found.group(1).count(".param")


def without_hidden(compiled: Compiled) -> str:
    """The PTX without Triton's hidden parameters, for launchers that pass the declared ones alone.

    A launcher hands the driver one address per parameter that it knows of; the driver reads as many as the entry
    declares. `compile_variant` has refused kernels that use their scratch memory, so nothing reads these.

    Raises:
        CompileError: the PTX is not of the expected form, or does read one of them.
    """
    found = re.search(rf"(\.entry {re.escape(compiled.entry)}\()(.*?)(\s*\))", compiled.ptx, re.DOTALL)
    declared = [] if found is None else [part.strip() for part in found.group(2).split(",")]
    kept, hidden = declared[: len(compiled.parameters)], declared[len(compiled.parameters) :]
    if found is None or len(hidden) != compiled.hidden_pointers or len(kept) != len(compiled.parameters):
        raise CompileError(f"{compiled.title}: the PTX declares {', '.join(declared) or 'no parameters'}")
    body = compiled.ptx[found.end() :]
    used = [name for name in (part.split()[-1] for part in hidden) if re.search(rf"\b{name}\b", body)]
    if used:
        raise CompileError(f"{compiled.title}: the PTX reads Triton's scratch memory ({', '.join(used)})")
    return (
        compiled.ptx[: found.start(2)] + "\n\t" + ",\n\t".join(kept) + "\n" + compiled.ptx[found.end() - 1 :]
    )


def compile_all(
    variants: Iterable[Any], targets: Sequence[int], *, jobs: int | None = None
) -> Iterator[Compiled]:
    """Compile every variant for every target that it is for, in order; `Compiled.check` is left to the caller.

    Args:
        variants: of `scclip_kernels.aot.variants`.
        targets: 89 for compute capability 8.9.
        jobs: processes; 1 stays in this one; default: one per CPU, at most 8.

    Raises:
        CompileError: an unknown target, or a kernel that can't be compiled.
    """
    for target in targets:
        if target not in SHARED_LIMIT:
            known = ", ".join(map(str, SHARED_LIMIT))
            raise CompileError(f"no GPU has compute capability {target / 10}; known targets: {known}")
    work = [(variant.title, target) for variant in variants for target in targets if variant.runs_on(target)]
    jobs = min(jobs or min(multiprocessing.cpu_count(), 8), max(len(work), 1))
    if jobs == 1:
        yield from map(_compile_titled, work)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_compile_titled, work)


def _compile_titled(work: tuple[str, int]) -> Compiled:
    """By title: kernels can't be sent to another process."""
    from scclip_kernels.aot.variants import model_variants, runtime_variants
    from scclip_kernels.plugins.plugins import plugin_variants

    title, target = work
    every = (*runtime_variants(), *model_variants(), *plugin_variants())
    variant = next(v for v in every if v.title == title)
    return compile_variant(variant, target)


def write_kernels(folder: Path, targets: Sequence[int], *, jobs: int | None = None) -> list[str]:
    """Compile the runtime's kernels and write them below `folder`, a bundle's directory.

    Args:
        folder: existing; `kernels/` is made in it, files of the same names are replaced.
        targets: 89 for compute capability 8.9. Code for 80 runs on 86 and 89 too; from 90 on, on its own target alone.
        jobs: see `compile_all`.

    Returns:
        Paths written, relative to `folder`, kernels.json last.

    Raises:
        CompileError: a kernel fails, spills or doesn't fit; nothing is written then.
    """
    from scclip_kernels.aot.variants import runtime_variants

    compiled = list(compile_all(runtime_variants(), targets, jobs=jobs))
    for item in compiled:
        item.check()
    (folder / "kernels").mkdir(exist_ok=True)
    for item in compiled:
        (folder / item.file).write_bytes(item.cubin)
    listing = json.dumps([item.entry_of_list() for item in compiled], indent=1)
    (folder / KERNEL_LIST).write_text(listing + "\n", "utf-8")
    return [*(item.file for item in compiled), KERNEL_LIST]


def parse_targets(text: str) -> tuple[int, ...]:
    """Read "8.9,120" or "89,12.0" as (89, 120).

    Raises:
        CompileError: not numbers, or none.
    """
    parts = [part.strip().removeprefix("sm_").replace(".", "") for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() for part in parts):
        raise CompileError(f"--targets takes compute capabilities like 80,8.9,120; got {text!r}")
    return tuple(dict.fromkeys(map(int, parts)))


def _print_table(compiled: Iterable[Compiled]) -> None:
    """Print a line per kernel as it arrives, then refuse those that don't fit, all of them in one message."""
    print(f"{'kernel':34}{'target':>8}{'registers':>11}{'spilled':>9}{'shared':>9}{'warps':>7}")
    refused = []
    for item in compiled:
        print(
            f"{item.title:34}{f'sm_{item.target}':>8}{item.registers:>11}{item.spill_bytes:>9}"
            f"{item.shared_bytes:>9}{item.num_warps:>7}",
            flush=True,
        )
        try:
            item.check()
        except CompileError as error:
            refused.append(str(error))
    if refused:
        raise CompileError("; ".join(refused))


def run(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scclip_kernels.aot.compile", description=__doc__)
    parser.add_argument(
        "--targets", default=",".join(map(str, TARGETS)), help="compute capabilities (default: %(default)s)"
    )
    parser.add_argument("--only", metavar="TEXT", default="", help="only kernels whose title contains TEXT")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="write the runtime's kernels into DIR/kernels"
    )
    parser.add_argument("--jobs", type=int, help="processes (default: one per CPU, at most 8)")
    options = parser.parse_args(arguments)
    try:
        targets = parse_targets(options.targets)
        try:
            from scclip_kernels.aot.variants import model_variants, runtime_variants
            from scclip_kernels.plugins.plugins import plugin_variants
        except ImportError as error:
            raise CompileError(f"compiling kernels needs Triton ({error}); pip install triton") from error
        if options.output:
            if not options.output.is_dir():
                raise CompileError(f"--output {options.output} is no directory; give a bundle's")
            compile_kernels = partial(write_kernels, options.output, targets, jobs=options.jobs)
            print(f"{len(compile_kernels())} files written to {options.output / 'kernels'}")
            return 0
        every = (*runtime_variants(), *model_variants(), *plugin_variants())
        variants = [v for v in every if options.only in v.title]
        _print_table(compile_all(variants, targets, jobs=options.jobs))
    except CompileError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(run())
