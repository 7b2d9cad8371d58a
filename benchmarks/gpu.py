"""Check, then time, everything on one GPU: kernels, encoders, decode, whole images, every backend that is installed.

    python benchmarks/gpu.py                                   # ViT-B/16 and ViT-L/14, torch and Triton alone
    python benchmarks/gpu.py --bundle vitb16.scclip …          # and the backends, on bundles exported anywhere
    python benchmarks/gpu.py --device cpu --quick              # the whole script on a tiny model: what CI runs

It needs torch (and uses Triton, ONNX Runtime, TensorRT and TensorRT-RTX where they are); weights are synthetic. Numbers
come first: a kernel that is further from a float64 oracle than allowed, or labels that differ from float32's on more
pixels than allowed, make it exit with 1, and nothing wrong is timed. Rows go to benchmarks/results/gpu-NAME.json with
the ceilings that were measured beside them, the table to standard output, and the choice between kernels to
gpu-kernels-NAME.json.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
for folder in (ROOT, ROOT / "export", ROOT / "kernels", ROOT / "tests", ROOT / "benchmarks"):
    sys.path.insert(0, str(folder))
# Share of pixels on which labels may differ from float32's; random queries are the hardest case there is.
AGREEMENT = {"fp32": 0.999, "fp16": 0.97, "bf16": 0.90}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", default="cuda:0", help="cuda:N, or cpu to run the script at all (%(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny model, few sizes, few runs: no figure to quote"
    )
    parser.add_argument("--arch", nargs="+", default=["vitb16", "vitl14"], help="models (%(default)s)")
    parser.add_argument(
        "--bundle", nargs="*", type=Path, default=[], help="bundles for the installed backends"
    )
    parser.add_argument("--queries", nargs="+", type=int, default=[20, 150, 1000], help="(%(default)s)")
    parser.add_argument(
        "--windows", nargs="+", type=int, default=[1, 6, 16, 32, 64], help="batches (%(default)s)"
    )
    parser.add_argument("--iterations", type=int, default=100, help="timed runs (%(default)s)")
    parser.add_argument("--warmup", type=int, default=10, help="runs before the clock (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON (%(default)s)")
    args = parser.parse_args(arguments)
    if args.quick:
        args.arch, args.queries, args.windows = ["tiny"], [5], [2]
        args.iterations, args.warmup = 1, 0
    if args.device == "cpu":
        # Before Triton is imported: kernels run in its interpreter.
        os.environ["TRITON_INTERPRET"] = "1"
    return args


@dataclass(slots=True)
class Run:
    """One run of the script: options, clock, ceilings, and the rows so far."""

    args: argparse.Namespace
    clock: Any
    ceilings: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row and say it."""
        self.rows.append(row)
        named = " ".join(str(row[key]) for key in ("question", "arch", "contender", "kernel") if key in row)
        sizes = ", ".join(
            f"{key} {row[key]}" for key in ("windows", "patches", "queries", "precision") if key in row
        )
        told = (
            f"{row['milliseconds']['p50']:.4g} ms"
            if "milliseconds" in row
            else row.get("skipped", "not timed")
        )
        print(f"{named} ({sizes}): {told}", file=sys.stderr, flush=True)

    def fail(self, what: str) -> None:
        """Keep a failure; the script goes on and exits with 1."""
        self.failures.append(what)
        print(f"FAILED: {what}", file=sys.stderr, flush=True)

    def attempt(self, base: dict[str, Any], work: Callable[[], dict[str, Any]]) -> None:
        """A row, or the reason why there is none: one contender's trouble does not end the others' turn."""
        try:
            self.add(base | work())
        except Exception as error:  # whatever a compiler or a driver raises
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            self.add(base | {"error": reason, "skipped": reason})
            self.fail(f"{base}: {reason}")
            traceback.print_exc(limit=-3)


def main(arguments: list[str] | None = None) -> int:
    """Measure; 0 if all numbers were right, 1 if one was not."""
    args = parse(arguments)
    import torch
    from gpu_clock import Clock

    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("error: torch sees no GPU; --device cpu --quick runs the script without one", file=sys.stderr)
        return 2
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)  # nothing here is worth the other cores
    # The float32 islands are float32: TF32 has the mantissa of fp16.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    run = Run(args=args, clock=Clock(device=device, warmup=args.warmup, iterations=args.iterations))
    with torch.inference_mode():
        measure_ceilings(run)
        measure_kernels(run)
        for arch in args.arch:
            measure_model(run, arch)
        measure_bundles(run)
    return finish(run)


def measure_ceilings(run: Run) -> None:
    """What the GPU does at best, in this run: products and copies."""
    import torch
    from gpu_clock import copy_ceilings, gemm_ceiling

    quick = run.args.quick
    dtypes = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    sizes = (128,) if quick else (2048, 4096, 8192)
    for name, dtype in dtypes.items():
        run.ceilings[name] = gemm_ceiling(run.clock, dtype, sizes)
    run.ceilings["copy"] = copy_ceilings(run.clock, (1 << 16) if quick else (256 << 20))


def measure_kernels(run: Run) -> None:
    """Every Triton kernel against its oracle, then the clock."""
    try:
        import triton  # noqa: F401
        from gpu_kernels import kernel_rows

        from scclip_kernels import fused  # noqa: F401
    except ImportError as error:
        run.add({"question": "kernel", "kernel": "all", "skipped": f"not here: {error}"})
        return
    quick = run.args.quick
    sizes: dict[str, Any] = {"patches": (36,), "windows": (2,), "precisions": ("fp32",)}
    if not quick:
        sizes = {
            "patches": (196, 256, 576, 1024, 2304),
            "windows": (1, 6, 32),
            "precisions": ("fp16", "bf16", "fp32"),
        }
    for arch in run.args.arch:
        try:
            for row in kernel_rows(run.clock, arch=arch, copy_rate=run.ceilings["copy"]["device"], **sizes):
                run.add(row)
                if not row["sound"]:
                    far = f"{row['error']:.2e} from the oracle, allowed {row['allowed']:.2e}"
                    run.fail(f"kernel {row['kernel']}, {row['precision']}, {row['patches']} patches: {far}")
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            run.add({"question": "kernel", "kernel": "all", "arch": arch, "skipped": reason})
            run.fail(f"kernels for {arch}: {reason}")
            traceback.print_exc(limit=-3)


def encoders(
    run: Run, tower: Any, arch: str
) -> Iterator[tuple[str, str, str, Callable[[Any, Any], Any], bool]]:
    """(contender, precision, method, encoder, whether it may be captured), float32 first."""
    import torch
    from gpu_models import encoder, fused_attention
    from gpu_torch import logits_of

    device, on_gpu = run.clock.device, run.clock.on_gpu
    # On a CPU the compiler proper takes minutes and says nothing about GPUs: its front end is what CI can check.
    compile_options: dict[str, Any] = {"dynamic": False} if on_gpu else {"backend": "eager"}
    narrow = ("fp16", "bf16") if on_gpu else ()  # emulated on a CPU, and slow
    for method, plain in (("scclip", ""), ("none", "plain ")):
        for precision in ("fp32", *narrow):
            module = encoder(
                tower, arch, precision=precision, method=method, device=device, attend=fused_attention
            )
            yield f"{plain}eager {precision}", precision, method, logits_of(module), True
            if not on_gpu and (precision, method) != ("fp32", "scclip"):
                continue
            compiled = torch.compile(module, **compile_options)
            yield f"{plain}compiled {precision}", precision, method, logits_of(compiled), True
    # Not on a CPU: the interpreter takes minutes, and the kernels have rows of their own.
    for precision in narrow:
        try:
            module = encoder(tower, arch, precision=precision, device=device, kernels="triton")
        except TypeError:  # a version of the exporter without Triton kernels
            return
        yield f"kernels {precision}", precision, "scclip", logits_of(module), True
        compiled = torch.compile(module, **compile_options)
        yield f"kernels, compiled {precision}", precision, "scclip", logits_of(compiled), True


def measure_model(run: Run, arch: str) -> None:
    """Encoders on the device over batches, then whole images and the decode."""
    import torch
    from gpu_models import ARCHITECTURES, visual
    from gpu_torch import DenseDecode, Photo, unit_text, windows_of

    from synthetic import scene

    _, _, patch, resolution, embed, *_ = ARCHITECTURES[arch]
    # Triton's interpreter walks through every block in Python: few pixels for the quick run.
    photo = Photo.of(scene(*((24, 32) if run.args.quick else (375, 500))), resolution // patch)
    tower = visual(arch)
    device = run.clock.device
    text = {queries: unit_text(queries, embed, device) for queries in run.args.queries}
    own = windows_of(photo, len(photo.tiling), device)
    decoders = {queries: DenseDecode(photo.plan, device) for queries in text}
    wanted: dict[str, dict[int, Any]] = {}
    for name, precision, method, encode, capturable in encoders(run, tower, arch):
        labels = {}
        try:
            labels = {queries: decoders[queries](encode(own, text[queries])) for queries in text}
        except Exception as error:
            run.fail(f"{arch} {name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            traceback.print_exc(limit=-3)
            continue
        first = wanted.setdefault(method, labels)
        agreement = min(float((labels[q] == first[q]).float().mean()) for q in labels)
        if agreement < AGREEMENT[precision]:
            run.fail(f"{arch} {name}: labels agree with fp32 on {agreement:.3%} of pixels; not timed")
            continue
        base = {
            "arch": arch,
            "contender": name,
            "precision": precision,
            "method": method,
            "labels_as_fp32": agreement,
        }
        for graph in (False, True) if capturable and run.clock.on_gpu else (False,):
            title = f"{name}, CUDA graph" if graph else name
            time_encoder(run, base | {"contender": title}, encode, photo, text, graph=graph)
            # Triton's interpreter takes seconds for an image: one is enough to see that the way works.
            if method == "scclip" and (run.clock.on_gpu or name == "eager fp32"):
                time_images(run, base | {"contender": title}, encode, photo, text, graph=graph)
        if run.clock.on_gpu:
            torch.cuda.empty_cache()
    measure_naive(run, arch, tower, photo, text, wanted.get("scclip", {}))
    measure_decode(run, arch, photo, embed)


def time_encoder(
    run: Run,
    base: dict[str, Any],
    encode: Callable[[Any, Any], Any],
    photo: Any,
    text: dict[int, Any],
    *,
    graph: bool,
) -> None:
    """A row per batch: device time, and the shares of the ceilings."""
    from gpu_clock import CudaGraph, own_gemms
    from gpu_models import DTYPES, flops, gemm_shapes
    from gpu_torch import windows_of

    queries = min(text, key=lambda count: abs(count - 150))
    for count in run.args.windows:

        def work(count: int = count) -> dict[str, Any]:
            windows = windows_of(photo, count, run.clock.device)
            call: Callable[[], Any] = lambda: encode(windows, text[queries])  # noqa: E731
            taken = run.clock.device_time(CudaGraph(call) if graph else call)
            seconds = taken["p50"] / 1000
            done = count * flops(base["arch"], base["method"], queries).total
            products = own_gemms(run.clock, DTYPES[base["precision"]], gemm_shapes(base["arch"], count))
            return {
                "milliseconds": taken,
                "windows_per_second": count / seconds,
                "of_gemm_ceiling": done / seconds / run.ceilings[base["precision"]]["flops_per_second"],
                "own_products_milliseconds": products,
                "of_own_products": products / taken["p50"],
            }

        run.attempt(base | {"question": "encode", "windows": count, "queries": queries}, work)


def time_images(
    run: Run,
    base: dict[str, Any],
    encode: Callable[[Any, Any], Any],
    photo: Any,
    text: dict[int, Any],
    *,
    graph: bool,
) -> None:
    """A row per number of queries: one photo, from host to host."""
    from gpu_torch import DenseDecode, TorchSegmenter, fused_decode

    for queries, rows in text.items():

        def work(queries: int = queries, rows: Any = rows) -> dict[str, Any]:
            fused = fused_decode(photo.plan, queries, run.clock.device)
            decoder = fused or DenseDecode(photo.plan, run.clock.device)
            segment = TorchSegmenter(photo, encode, decoder, rows, graph=graph)
            expected = DenseDecode(photo.plan, run.clock.device)(encode_own(photo, encode, rows))
            same = float((segment().astype("int64") == expected.cpu().numpy()).mean())
            if same < 0.9999:
                raise ValueError(f"the pipeline's labels are those of its parts on {same:.4%} of pixels only")
            return {"milliseconds": run.clock.host_time(segment), "decode": "triton" if fused else "torch"}

        run.attempt(base | {"question": "image", "queries": queries, "windows": len(photo.tiling)}, work)


def encode_own(photo: Any, encode: Callable[[Any, Any], Any], text: Any) -> Any:
    """Logits of the photo's own windows."""
    from gpu_torch import windows_of

    return encode(windows_of(photo, len(photo.tiling), text.device), text)


def measure_naive(
    run: Run, arch: str, tower: Any, photo: Any, text: dict[int, Any], wanted: dict[int, Any]
) -> None:
    """The baseline: METHOD window by window, eager, everything in one dtype."""
    from gpu_models import naive

    for precision in ("fp16",) if run.clock.on_gpu else ("fp32",):
        segmenter = naive(tower, arch, precision=precision, device=run.clock.device)
        for queries, rows in text.items():

            def work(queries: int = queries, rows: Any = rows, segmenter: Any = segmenter) -> dict[str, Any]:
                call = lambda: segmenter.segment(photo.pixels, rows, list(range(queries)))  # noqa: E731
                first = wanted.get(queries)
                same = None if first is None else float((call() == first.cpu().numpy()).mean())
                return {"labels_as_fp32": same, "milliseconds": run.clock.host_time(call)}

            base = {
                "question": "image",
                "arch": arch,
                "contender": f"naive eager {precision}",
                "method": "scclip",
            }
            run.attempt(
                base | {"precision": precision, "queries": queries, "windows": len(photo.tiling)}, work
            )


def measure_decode(run: Run, arch: str, photo: Any, embed: int) -> None:
    """The decode alone, on logits that are on the device already."""
    import torch
    from gpu_torch import DenseDecode, fused_decode, unit_text

    device = run.clock.device
    for queries in run.args.queries:
        patches = photo.plan.grid[0] * photo.plan.grid[1]
        features = torch.randn(len(photo.tiling), patches, embed, device=device)
        logits = torch.nn.functional.normalize(features, dim=-1) @ unit_text(queries, embed, device).T
        dense = DenseDecode(photo.plan, device)
        moved = logits.numel() * 4 + photo.pixels.shape[0] * photo.pixels.shape[1]
        contenders = {"torch": dense, "triton": fused_decode(photo.plan, queries, device)}
        for name, decoder in contenders.items():

            def work(decoder: Any = decoder) -> dict[str, Any]:
                same = float((decoder(logits).long() == dense(logits)).float().mean())  # noqa: B023
                if same < 0.9999:
                    raise ValueError(f"labels are those of the dense form on {same:.4%} of pixels only")
                taken = run.clock.device_time(lambda: decoder(logits))  # noqa: B023
                share = moved / (taken["p50"] / 1000) / run.ceilings["copy"]["device"]  # noqa: B023
                return {"milliseconds": taken, "labels_as_dense": same, "of_copy_ceiling": share}

            base = {"question": "decode", "arch": arch, "contender": f"decode, {name}", "queries": queries}
            if decoder is None:
                run.add(base | {"skipped": "the Triton decode is not here"})
            else:
                run.attempt(base, work)


def measure_bundles(run: Run) -> None:
    """The installed backends, on bundles that are given (and on the packaged one when quick)."""
    paths = list(run.args.bundle)
    if run.args.quick and not paths:
        paths = [ROOT / "scclip_rt/demo.scclip"]
    if not paths:
        return
    from gpu_bundles import bundle_rows

    from synthetic import scene

    image = scene(375, 500)
    arch_names = ("vitb16", "vitl14")
    for path in paths:
        arch = next((name for name in arch_names if name in path.name), path.stem)
        try:
            queries, batches = tuple(run.args.queries), tuple(run.args.windows)
            for row in bundle_rows(run.clock, path, image=image, queries=queries, batches=batches):
                run.add({"arch": arch} | row)
                precision = "fp32" if row["contender"].endswith("fp32") else "fp16"
                if row.get("labels_as_fp32", 1.0) < AGREEMENT[precision]:
                    run.fail(
                        f"{path.name} {row['contender']}: labels agree on {row['labels_as_fp32']:.3%} of pixels"
                    )
        except Exception as error:
            run.fail(f"{path}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            traceback.print_exc(limit=-3)


def device_environment(run: Run) -> dict[str, Any]:
    """The machine, with its GPU, driver and CUDA."""
    import torch

    from scclip_rt.bench.environment import environment

    told = dict(environment())
    if run.clock.on_gpu:
        properties = torch.cuda.get_device_properties(run.clock.device)
        told["gpu"] = {
            "name": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
            "nvidia_smi": _nvidia_smi(),
        }
    return told


def _nvidia_smi() -> str | None:
    """Driver, clocks and power limit, as nvidia-smi tells them."""
    fields = "driver_version,clocks.max.sm,clocks.sm,power.limit,temperature.gpu,utilization.gpu"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def finish(run: Run) -> int:
    """Write what was found and print it."""
    from gpu_kernels import choice_table
    from gpu_report import goals, tables

    environment = device_environment(run)
    report = {
        "question": "everything on one GPU",
        "quick": run.args.quick,
        "environment": environment,
        "ceilings": run.ceilings,
        "rows": run.rows,
        "goals": goals(run.rows),
        "failures": run.failures,
    }
    name = re.sub(r"\W+", "-", environment.get("gpu", {}).get("name", "cpu")).strip("-").lower()
    run.args.results.mkdir(parents=True, exist_ok=True)
    kernels = [row for row in run.rows if row["question"] == "kernel" and "error" in row]
    documents = {f"gpu-{name}.json": report, f"gpu-kernels-{name}.json": choice_table(kernels, environment)}
    for file, document in documents.items():
        path = run.args.results / file
        path.write_text(json.dumps(document, indent=1, default=str) + "\n", "utf-8")
        print(f"wrote {path}", file=sys.stderr)
    print(tables(report))
    for failure in run.failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
