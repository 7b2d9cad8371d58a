"""What benchmarks/gpu does on a GPU alone: CUDA graphs, the runtime's device path; resuming; errors as rows."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import measure as gpu_measure
from benchmarks.gpu.clock import Clock, CudaGraph
from benchmarks.gpu.contenders import COMPILATION, Contender, Subject, compiled_contenders, eager_contenders
from benchmarks.gpu.run import ContextLostError, OutOfTimeError, Run, start_again
from benchmarks.gpu.torch_models import logits_of
from stand_ins import torch_cuda as fake_torch_cuda

CPU = torch.device("cpu")
ENVIRONMENT = {"gpu": {"name": "NVIDIA H100", "cuda": "13.0"}, "versions": {"torch": "2.11"}}


MICRO = "micro"


def make_run(folder: Path, *arguments: str, **environment: Any) -> Run:
    args = gpu.parse(["--quick", "--results", str(folder), *arguments])
    clock = Clock(device=CPU, warmup=1, iterations=2)
    ceilings = {name: {"flops_per_second": 1e9} for name in ("fp32", "fp16", "bf16")} | {
        "copy": {"device": 1e9}
    }
    run = Run(args=args, clock=clock, environment=ENVIRONMENT | environment)
    run.ceilings = run.ceilings or ceilings
    return run


def base(windows: int, **more: Any) -> dict[str, Any]:
    return {"question": "encode", "arch": "tiny", "contender": "eager", "windows": windows, **more}


def timed() -> dict[str, Any]:
    return {"milliseconds": {"p50": 1.0, "p99": 1.0, "min": 1.0}}


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A GPU that is the CPU; the captures that were made."""
    monkeypatch.setattr(Clock, "on_gpu", property(lambda _: True))
    # The interpreter would take minutes; the kernels have tests and rows of their own.
    monkeypatch.setattr(gpu_measure, "triton_decode", lambda *_: None)
    return fake_torch_cuda.install(monkeypatch)


def test_every_torch_contender_runs_and_can_be_captured(
    tmp_path: Path, on_gpu: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)  # the runtime's path has tests of its own
    run = make_run(tmp_path)
    with torch.inference_mode():
        subject = Subject(run, MICRO)
        contenders = [c for c in eager_contenders(subject) if "kernels" not in c.name]
        for contender in contenders:
            gpu_measure.measure_contender(subject, contender)
        gpu_measure.measure_naive(subject)
        gpu_measure.measure_decode(subject)
    assert run.failures == []
    rows = {(row["question"], row["contender"]) for row in run.rows if "milliseconds" in row}
    calibrated = [f"eager {precision}" for precision in ("fp32", "fp16", "bf16")]
    plain = ["plain eager fp16", "plain eager bf16"]
    both = [f"{name}{graph}" for name in (*calibrated, *plain) for graph in ("", ", CUDA graph")]
    assert {("encode", name) for name in both} <= rows
    images = {("image", name) for name in both if not name.startswith("plain")}
    assert images | {("image", "naive eager fp16"), ("decode", "decode, torch")} <= rows
    (runtime,) = (row for row in run.rows if row["contender"].startswith("runtime"))
    assert (runtime["contender"], runtime["skipped"]) == (
        "runtime over eager fp16",
        "cuda-python is not here",
    )
    # A batch and a photo for each calibrated encoder, a batch for each plain one, the decode.
    assert len(on_gpu) == 2 * 3 + 2 + 1


def test_what_a_capture_forbids_is_found(on_gpu: list[str]) -> None:
    x = torch.arange(4.0)
    for work in (lambda: x.sum().item(), lambda: x[x > 1], lambda: x + torch.tensor([1.0, 2.0, 3.0, 4.0])):
        with pytest.raises(fake_torch_cuda.CaptureError, match="not permitted"):
            CudaGraph(work)
    assert float(CudaGraph(lambda: x.sum())()) == 6.0


def test_the_compiler_is_not_left_in_silence() -> None:
    """Beyond its limit of sizes torch runs eagerly and calls it compiled."""
    import torch._dynamo

    limit, fails = torch._dynamo.config.recompile_limit, torch._dynamo.config.fail_on_recompile_limit_hit
    threads = torch.get_num_threads()
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        gpu.set_up(CPU)
        assert torch._dynamo.config.fail_on_recompile_limit_hit
        assert torch._dynamo.config.recompile_limit >= 16
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
    finally:
        torch._dynamo.config.recompile_limit = limit
        torch._dynamo.config.fail_on_recompile_limit_hit = fails
        torch.set_num_threads(threads)


def test_compiled_code_begins_with_an_empty_cache() -> None:
    module = SimpleNamespace(
        encode=lambda hidden, *_: (hidden.float().mean((1, 2)), None),
        trunk=lambda windows: windows,
        patch_grid=lambda _: (1, 1),
    )
    counted = []

    def backend(graph: Any, inputs: Any) -> Any:
        counted.append(1)
        return graph.forward

    for _ in range(2):
        encode = logits_of(module, {"backend": backend, "dynamic": False})
        for queries in (2, 3):  # another number of queries is no compilation
            assert encode(torch.zeros(1, 4, 4, 3), torch.ones(queries, 3)).shape[-1] == queries
    assert len(counted) == 2


def test_a_contender_that_fails_is_a_row_and_ends_nobody_else(tmp_path: Path) -> None:
    run = make_run(tmp_path)

    def fails() -> dict[str, Any]:
        raise RuntimeError("no such\n kernel")

    run.attempt(base(1), fails)
    run.attempt(base(2), timed)
    assert [row.get("failed") for row in run.rows] == ["RuntimeError: no such kernel", None]
    assert run.failures == ["encode tiny eager (windows 1): RuntimeError: no such kernel"]
    assert json.loads(run.path.read_text())["rows"] == run.rows


def test_labels_that_are_wrong_are_not_timed(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with torch.inference_mode():
        subject = Subject(run, MICRO)
        right = logits_of(subject.module("fp32"))
        wrong = Contender(
            name="wrong", precision="fp16", make=lambda: lambda w, t: -right(w, t), batches=(2,), photo=False
        )
        gpu_measure.measure_contender(subject, wrong)
    assert [row["question"] for row in run.rows] == ["labels"]
    assert not run.rows[0]["sound"]
    assert "wrong: labels agree with float32's on" in run.failures[0]


def test_a_run_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    first = make_run(tmp_path)
    first.attempt(base(1), timed)
    with pytest.raises(KeyboardInterrupt):
        first.attempt(base(2), lambda: (_ for _ in ()).throw(KeyboardInterrupt))  # a limit from outside

    second = make_run(tmp_path)
    assert second.ceilings == first.ceilings
    calls: list[int] = []
    for windows in (1, 2, 3):
        second.attempt(base(windows), lambda: calls.append(1) or timed())
    assert len(calls) == 1  # 1 is known, 2 did not return the last time
    assert [row["windows"] for row in second.rows] == [1, 2, 3]
    assert "did not return" in second.failures[0]


def test_rows_of_another_gpu_or_version_are_not_mixed(tmp_path: Path) -> None:
    make_run(tmp_path).attempt(base(1), timed)
    assert len(make_run(tmp_path).rows) == 1
    assert make_run(tmp_path, versions={"torch": "2.12"}).rows == []
    assert make_run(tmp_path, git_revision="another").rows == []
    assert make_run(tmp_path, "--fresh").rows == []


def test_the_budget_ends_a_run_between_rows(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.attempt(base(1), timed)
    late = make_run(tmp_path, "--budget", "0")
    assert late.attempt(base(1), timed) is None
    with pytest.raises(OutOfTimeError):
        late.attempt(base(2), timed)
    assert not json.loads(late.path.read_text())["complete"]


def test_a_row_that_may_take_long_is_not_begun_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cut off in a compilation counts as failed: the next call has the time for it."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    first = make_run(tmp_path, "--budget", "100")
    first.attempt(base(1), timed, 60)
    now = 50.0
    with pytest.raises(OutOfTimeError):
        first.attempt(base(2), timed, 60)
    first.attempt(base(3), timed)
    assert [row["windows"] for row in first.rows] == [1, 3]
    # A budget that is too short for it still gets there.
    second = make_run(tmp_path, "--budget", "30")
    assert second.attempt(base(2), timed, 60) is not None


def test_what_is_compiled_has_time_for_it(tmp_path: Path, on_gpu: list[str]) -> None:
    del on_gpu
    subject = Subject(make_run(tmp_path), MICRO)
    assert {contender.needs for contender in compiled_contenders(subject)} == {COMPILATION}
    assert {contender.needs for contender in eager_contenders(subject)} == {0.0}
    asked: list[float] = []
    contender = Contender(
        name="slow", precision="fp16", make=lambda: None, batches=(2,), photo=False, needs=7
    )  # type: ignore[arg-type,return-value]
    run = SimpleNamespace(
        found=lambda row: {"sound": True} if row["question"] == "labels" else None,
        wants=lambda _: True,
        attempt=lambda _row, _work, needs=0.0: asked.append(needs),
        clock=subject.run.clock,
        args=subject.run.args,
    )
    subject.run = run  # type: ignore[assignment]
    gpu_measure.measure_contender(subject, contender)
    assert asked == [7, 7, 7]  # labels, a batch, the same as a CUDA graph


def test_a_new_process_has_what_is_left_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    run = make_run(tmp_path, "--budget", "540")
    now = 500.0
    started: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda _, arguments: started.append(arguments[1:]))
    command = ["benchmarks/gpu", "--budget", "540", "--fresh", "--results", str(tmp_path)]
    start_again(command, run.seconds_left())
    args = gpu.parse(started[0][1:])
    assert (args.budget, args.fresh) == (40.0, False)
    start_again(["benchmarks/gpu"], make_run(tmp_path).seconds_left())
    assert gpu.parse(started[1][1:]).budget is None


def test_a_lost_context_is_told_from_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)

    def fails(*_: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    run.attempt(base(1), fails)
    monkeypatch.setattr(Clock, "synchronize", fails)
    with pytest.raises(ContextLostError):
        run.attempt(base(2), fails)
    assert [row["windows"] for row in make_run(tmp_path).rows] == [1, 2]


def test_slow_work_is_run_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(device=CPU, warmup=3, iterations=100, seconds=0.01)
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)

    def work(seconds: float) -> None:
        nonlocal now
        now += seconds

    assert clock.host_time(lambda: work(1e-5))["runs"] == 100
    assert clock.host_time(lambda: work(2e-4))["runs"] in (49, 50)
    assert clock.host_time(lambda: work(2e-3))["runs"] == 20


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The driver's fake with the runtime's kernels in Python, and the device and kernel set on it."""
    pytest.importorskip("cuda.bindings", reason="cuda-python is not installed (extra dev)")
    pytest.importorskip("triton", reason="Triton is not installed (extra triton)")
    from scclip_rt.backends.cuda import Device, Driver
    from scclip_rt.backends.cuda import device as device_module
    from stand_ins.cuda import FakeDriver
    from stand_ins.kernels import kernel_set

    fake = FakeDriver()
    device = Device.open(0, Driver(fake))
    yield fake, device, kernel_set(fake, device)
    device_module._OPEN.clear()


def test_the_runtime_around_a_torch_encoder(tmp_path: Path, driver: Any) -> None:
    from benchmarks.gpu.runtime import overhead_row, runtime_row

    fake, device, kernels = driver
    run = make_run(tmp_path)
    with torch.inference_mode():
        subject = Subject(run, MICRO)
        encode = logits_of(subject.module("fp32"))
        row = runtime_row(subject, 5, encode, (device, kernels))
        assert row["labels_as_fp32"] == 1.0
        assert row["milliseconds"]["runs"] == 2
        before = fake.count("cuGraphLaunch")
        overhead = overhead_row(subject, 5, (device, kernels))
    assert overhead["milliseconds"]["runs"] == 2
    assert (
        fake.count("cuGraphLaunch") - before >= 2 + 2 + 2
    )  # of each form the second and third run, and the clock's
    import gc

    gc.collect()
    assert fake.used == 0


def test_without_cuda_python_the_runtime_is_left_out_and_nothing_fails(
    tmp_path: Path, on_gpu: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    del on_gpu
    monkeypatch.setitem(sys.modules, "cuda", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    run = make_run(tmp_path)
    gpu_measure.measure_overhead(Subject(run, MICRO))
    assert [row["skipped"] for row in run.rows] == ["cuda-python is not here"]
    assert run.failures == []


def test_a_tensor_over_memory_is_that_memory() -> None:
    pytest.importorskip("cuda.bindings", reason="cuda-python is not installed (extra dev)")
    pytest.importorskip("triton", reason="Triton is not installed (extra triton)")
    from benchmarks.gpu.runtime import view

    memory = np.arange(6, dtype=np.float32)
    tensor = view(memory.ctypes.data, (2, 3), np.float32, CPU)
    tensor[1, 2] = 9
    assert memory[5] == 9
