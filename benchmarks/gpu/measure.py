"""The parts of benchmarks/gpu: each turns contenders into rows of a `Run`."""

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.clock import CudaGraph, copy_ceilings, gemm_ceiling, own_gemms
from benchmarks.gpu.contenders import Contender, Subject, compiled_contenders, eager_contenders
from benchmarks.gpu.models import ARCHITECTURES, DTYPES, flops, gemm_shapes, naive
from benchmarks.gpu.run import SAME_LABELS, ContextLostError, OutOfTimeError, Row, Run, reason
from benchmarks.gpu.torch_models import DenseDecode, Encoder, Photo, TorchSegmenter, triton_decode, windows_of
from scclip_rt.precisions import PRECISIONS
from synthetic import scene

ROOT = Path(__file__).parents[2]
AGREEMENT = {name: spec.pixels for name, spec in PRECISIONS.items()}
"""Share of pixels that must have float32's label."""


def measure_ceilings(run: Run) -> None:
    """What the GPU does at best, in this run: products and copies."""
    sizes = (128,) if run.args.quick else (2048, 4096, 8192)
    for name, dtype in DTYPES.items():
        run.ceilings[name] = gemm_ceiling(run.clock, dtype, sizes)
    run.ceilings["copy"] = copy_ceilings(run.clock, (1 << 16) if run.args.quick else (256 << 20))


def measure_kernels(run: Run) -> None:
    """Every Triton kernel against its oracle, then the clock."""
    try:
        from benchmarks.gpu.kernels import KERNELS, kernel_row, kernel_sizes, runs_in
        from scclip_kernels import triton  # noqa: F401
    except ImportError as error:
        skip(run, {"question": "kernel", "kernel": "all"}, f"not here: {error}")
        return
    for arch in run.args.arch:
        for size in kernel_sizes(arch, quick=run.args.quick):
            for kernel in (kernel for kernel in KERNELS if runs_in(kernel, size.precision)):
                base = {"question": "kernel", "kernel": kernel, "arch": arch, **size._asdict()}
                row = run.attempt(base, partial(kernel_row, run.clock, kernel, arch, size, run.ceilings))
                free_memory(run)
                if row is not None and row.get("sound") is False:
                    far = f"{row['error']:.2e} from the oracle, allowed {row['allowed']:.2e}"
                    run.fail(f"kernel {kernel}, {size.precision}, {size.patches} patches: {far}")


def free_memory(run: Run) -> None:
    """Give back what torch keeps of the GPU's memory: the next contender may be another library."""
    if run.clock.on_gpu:
        torch.cuda.empty_cache()


def skip(run: Run, base: Row, why: str) -> None:
    """A row that says why there is no time; none where an earlier call had it."""
    if run.found(base) is None:
        run.add(base | {"skipped": why})


def measure_model(run: Run, arch: str) -> None:
    """Encoders on the device over batches, whole images, the naive baseline, the decode."""
    subject = Subject(run, arch)
    for contender in eager_contenders(subject):
        measure_contender(subject, contender)
    measure_overhead(subject)
    measure_naive(subject)
    measure_decode(subject)


def measure_compiled(run: Run, arch: str) -> None:
    """What torch.compile makes of the encoders."""
    subject = Subject(run, arch)
    for contender in compiled_contenders(subject):
        measure_contender(subject, contender)


def measure_contender(subject: Subject, contender: Contender) -> None:
    """Labels first; if they are right, a row per batch, and per number of queries for whole images."""
    run = subject.run
    base = {"arch": subject.arch, "contender": contender.name}
    base |= {"precision": contender.precision, "method": contender.method}
    jobs = list(_jobs(subject, contender, base))
    gate = base | {"question": "labels"}
    if run.found(gate) is not None and not any(run.wants(row) for row, *_ in jobs):
        return
    built: list[Encoder] = []

    def encode() -> Encoder:
        if not built:
            built.append(contender.make())
        return built[0]

    run.attempt(gate, lambda: _check_labels(subject, contender, encode()), contender.needs)
    told = run.found(gate)
    if told is None or not told.get("sound"):
        if told is not None and "labels_as_fp32" in told:
            run.fail(
                f"{subject.arch} {contender.name}: labels agree with float32's on "
                f"{told['labels_as_fp32']:.3%} of pixels; not timed"
            )
        return
    for row, graph, time_it in jobs:
        run.attempt(row, partial(time_it, encode, graph), contender.needs)
    built.clear()
    free_memory(run)


def _check_labels(subject: Subject, contender: Contender, encode: Encoder) -> Row:
    wanted, found = subject.expected(contender.method), subject.labels(encode)
    share = {str(count): float((found[count] == wanted[count]).float().mean()) for count in wanted}
    least = min(share.values())
    sound = least >= AGREEMENT[contender.precision]
    return {"labels_as_fp32": least, "by_queries": share, "sound": sound}


Timed = Callable[[Callable[[], Encoder], bool], Row]


def _jobs(subject: Subject, contender: Contender, base: Row) -> Iterator[tuple[Row, bool, Timed]]:
    """(what the row is, whether it is a CUDA graph, how it is measured)."""
    queries = min(subject.text, key=lambda count: abs(count - 150))
    windows = len(subject.photo.tiling)
    for graph in (False, True) if subject.run.clock.on_gpu else (False,):
        own = base | {"contender": f"{contender.name}, CUDA graph"} if graph else base
        for count in contender.batches:
            row = own | {"question": "encode", "windows": count, "queries": queries}
            yield row, graph, partial(_time_encoder, subject, row)
        for count in subject.text if contender.photo else ():
            row = own | {"question": "image", "windows": windows, "queries": count}
            yield row, graph, partial(_time_image, subject, row)
    in_runtime = contender.photo and contender.precision == "fp16" and subject.run.clock.on_gpu
    for count in subject.text if in_runtime else ():
        named = base | {"contender": f"runtime over {contender.name}"}
        row = named | {"question": "image", "windows": windows, "queries": count}
        yield row, True, partial(_time_runtime, subject, row)


def _time_encoder(subject: Subject, base: Row, encode: Callable[[], Encoder], graph: bool) -> Row:
    """Device time of a batch, and its shares of the ceilings."""
    run, count, precision = subject.run, base["windows"], base["precision"]
    windows = windows_of(subject.photo, count, subject.device)
    text, work = subject.text[base["queries"]], encode()
    call: Callable[[], Any] = lambda: work(windows, text)  # noqa: E731
    taken = run.clock.device_time(CudaGraph(call) if graph else call)
    seconds = taken["p50"] / 1000
    done = count * flops(subject.arch, base["method"], base["queries"]).total
    products = own_gemms(run.clock, DTYPES[precision], gemm_shapes(subject.arch, count))
    return {
        "milliseconds": taken,
        "windows_per_second": count / seconds,
        "of_gemm_ceiling": done / seconds / run.ceilings[precision]["flops_per_second"],
        "own_products_milliseconds": products,
        "of_own_products": products / taken["p50"],
    }


def _time_image(subject: Subject, base: Row, encode: Callable[[], Encoder], graph: bool) -> Row:
    """One photo from host to host."""
    run, photo, queries = subject.run, subject.photo, base["queries"]
    rows, work = subject.text[queries], encode()
    in_triton = triton_decode(photo.plan, queries, subject.device)
    dense = DenseDecode(photo.plan, subject.device)
    segment = TorchSegmenter(photo, work, in_triton or dense, rows, graph=graph)
    expected = dense(work(windows_of(photo, base["windows"], subject.device), rows)).cpu().numpy()
    same = float((segment().astype("int64") == expected).mean())
    if same < SAME_LABELS:
        raise ValueError(f"the pipeline's labels are those of its parts on {same:.4%} of pixels only")
    gate = {key: base[key] for key in ("arch", "precision", "method")} | {"question": "labels"}
    told = run.found(gate | {"contender": base["contender"].removesuffix(", CUDA graph")}) or {}
    return {
        "milliseconds": run.clock.host_time(segment),
        "labels_as_fp32": told.get("by_queries", {}).get(str(queries)),
        "decode": "triton" if in_triton else "torch",
    }


def measure_overhead(subject: Subject) -> None:
    """The runtime's own device path (cuda-python, compiled kernels) without an encoder."""
    run = subject.run
    if not run.clock.on_gpu:
        return
    common = {"question": "runtime", "arch": subject.arch, "contender": "without the encoder"}
    for queries in subject.text:
        base = common | {"method": "scclip", "windows": len(subject.photo.tiling), "queries": queries}
        run.attempt(base, partial(_time_overhead, subject, queries))


def _time_overhead(subject: Subject, queries: int) -> Row:
    if not _cuda_python():
        return {"skipped": "cuda-python is not here"}
    from benchmarks.gpu.runtime import overhead_row

    return overhead_row(subject, queries)


def _time_runtime(subject: Subject, base: Row, encode: Callable[[], Encoder], _: bool) -> Row:
    """One photo through the runtime's own path around a torch encoder: no TensorRT needed."""
    if not _cuda_python():
        return {"skipped": "cuda-python is not here"}
    from benchmarks.gpu.runtime import runtime_row

    return runtime_row(subject, base["queries"], encode())


def _cuda_python() -> bool:
    """Whether the runtime's way to CUDA is installed: torch brings it from 2.10 on, older ones don't."""
    try:
        return find_spec("cuda.bindings") is not None
    except ModuleNotFoundError:  # not even a package `cuda`
        return False


def measure_naive(subject: Subject) -> None:
    """The baseline: METHOD window by window, eager, everything in one dtype."""
    run, photo = subject.run, subject.photo
    precision = "fp16" if run.clock.on_gpu else "fp32"
    made: list[Any] = []

    def work(queries: int) -> Row:
        if not made:
            made.append(naive(subject.tower, subject.arch, precision=precision, device=subject.device))
        call = partial(made[0].segment, photo.pixels, subject.text[queries], list(range(queries)))
        same = float((call() == subject.expected("scclip")[queries].cpu().numpy()).mean())
        return {"labels_as_fp32": same, "milliseconds": run.clock.host_time(call)}

    for queries in subject.text:
        base = {"question": "image", "arch": subject.arch, "contender": f"naive eager {precision}"}
        base |= {"method": "scclip", "precision": precision, "queries": queries, "windows": len(photo.tiling)}
        run.attempt(base, partial(work, queries))


def measure_decode(subject: Subject) -> None:
    """The decode alone, on logits that are on the device already."""
    run, photo = subject.run, subject.photo
    embed = ARCHITECTURES[subject.arch][4]
    patches = photo.plan.grid[0] * photo.plan.grid[1]
    for queries, text in subject.text.items():
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(len(photo.tiling), patches, embed, generator=generator).to(subject.device)
        logits = torch.nn.functional.normalize(features, dim=-1) @ text.T
        dense = DenseDecode(photo.plan, subject.device)
        in_triton = triton_decode(photo.plan, queries, subject.device)
        for name, decoder in (("torch", dense), ("triton", in_triton)):
            base = {"question": "decode", "arch": subject.arch, "contender": f"decode, {name}"}
            base["queries"] = queries
            if decoder is not None:
                run.attempt(base, partial(_time_decode, run, photo, decoder, dense, logits))
            else:
                skip(run, base, "the Triton decode is not here")


def _time_decode(run: Run, photo: Photo, decoder: Any, dense: DenseDecode, logits: Tensor) -> Row:
    same = float((decoder(logits).long() == dense(logits)).float().mean())
    if same < SAME_LABELS:
        raise ValueError(f"labels are those of the dense form on {same:.4%} of pixels only")
    taken = run.clock.device_time(lambda: decoder(logits))
    told = {"milliseconds": taken, "labels_as_dense": same}
    if run.clock.on_gpu:  # launches cost more than the work of one: a graph has none
        told["graph_milliseconds"] = run.clock.device_time(CudaGraph(lambda: decoder(logits)))
    moved = logits.numel() * 4 + photo.pixels.shape[0] * photo.pixels.shape[1]
    best = told.get("graph_milliseconds", taken)["p50"] / 1000
    return told | {"of_copy_ceiling": moved / best / run.ceilings["copy"]["device"]}


def measure_bundles(run: Run) -> None:
    """The installed backends, on bundles that are given (and on the packaged one when quick)."""
    paths = list(run.args.bundle)
    if run.args.quick and not paths:
        paths = [ROOT / "scclip_rt/demo.scclip"]
    for path in paths:
        try:
            from benchmarks.gpu.bundles import measure_bundle

            arch = next((name for name in ("vitb16", "vitl14") if name in path.name), path.stem)
            measure_bundle(run, path, arch=arch, image=scene(375, 500), agreement=AGREEMENT)
        except (ContextLostError, OutOfTimeError):
            raise
        except ImportError as error:
            base = {"question": "image", "bundle": path.stem, "contender": "every backend"}
            skip(run, base, f"not here: {error}")
        except Exception as error:
            run.fail(f"{path}: {reason(error)}")
