"""Which engine and which backend the Python runtime chooses."""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from scclip_kernels.aot.variants import runtime_variants
from scclip_rt.backends import choose as choose_module
from scclip_rt.backends.choose import Host, choose
from scclip_rt.backends.tuned import Measured, library_versions, write_tuned
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.engine_fit import Machine, Wanted, choose_engine, supports
from scclip_rt.bundle.manifest import GridSpec
from scclip_rt.cpus import default_threads
from scclip_rt.errors import BackendError
from stand_ins.engine_files import add_engine, list_engines
from tiny_bundle import build_bundle, relist

L4 = Machine(library="tensorrt", version="10.14.1.48", compute_capability="8.9", device="NVIDIA L4")
MACHINES = (
    L4,
    Machine(library="tensorrt-rtx", version="1.7.1.116", compute_capability="12.0"),
    Machine(library="tensorrt-rtx", version="1.7.1.116", compute_capability="9.0"),
    Machine(library="tensorrt", version="10.15.0.1", compute_capability="9.0", device="NVIDIA H100"),
)
WANTED: tuple[dict[str, Any], ...] = (
    {},
    {"batch": 6},
    {"batch": 30, "queries": 150},
    {"batch": 100},
    {"queries": 5000},
    {"precision": "fp16"},
    {"precision": "fast"},
    {"precision": "fp8"},
    {"grid": GridSpec(kind="window", rows=6, columns=6)},
    {"grid": GridSpec(kind="fixed", rows=8, columns=12), "precision": "bf16"},
)
Change = Callable[[Path], object]


def _engine(*names: str, **changes: Any) -> Change:
    return lambda root: [add_engine(root, name, **changes) for name in names or ("one",)]


def _then(*changes: Change) -> Change:
    return lambda root: [change(root) for change in changes]


def _rewrite(name: str, content: bytes) -> Change:
    return lambda root: (root / name).write_bytes(content)


def _unlink(*names: str) -> Change:
    return lambda root: [(root / name).unlink() for name in names]


def _sidecar(content: str) -> Change:
    def change(root: Path) -> None:
        add_engine(root)
        (root / "engines/one.json").write_text(content)
        list_engines(root, [])

    return change


def _other_onnx(root: Path) -> None:
    with (root / "encoder.fp32.onnx").open("ab") as file:
        file.write(b"\x32\x00")  # an empty doc_string: the same graph, not the same file
    sidecars = json.loads((root / "bundle.json").read_text())["engines"]
    (root / "engines").rename(root.parent / "aside")
    relist(root)
    (root.parent / "aside").rename(root / "engines")
    list_engines(root, sidecars)


_BATCHES = {"batch": [1, 32, 64], "queries": [1, 150, 1024]}
CASES: dict[str, Change] = {
    "none": lambda _: None,
    "one": _engine(),
    "it's a case": _engine(),
    "rtx": _engine(
        library="tensorrt-rtx", library_version="1.7.1.116", compute_capabilities=["8.9", "12.0"], device=None
    ),
    "version": _engine(library_version="10.13.0.35", command="evil --bundle BUNDLE"),
    "compatible": _engine(library_version="10.9.0.34", options={"version_compatible": True}),
    "later": _engine(library_version="11.4.0.106", options={"version_compatible": True}),
    "capability": _engine(compute_capabilities=["9.0"]),
    "capability-later": _engine(compute_capabilities=["10.0+", "12.0"]),
    "source": _engine(source="encoder.fp16.onnx"),
    "source-hash": _engine(source_sha256="1" * 64),
    "sidecar-2": _engine(format_version=2),
    "sidecar-none": _engine(format_version=None),
    "sidecar-text": _engine(format_version="1"),
    "profile": _engine(profile={"batch": [1, 6, 16]}),
    "profile-short": _engine(profile={"batch": [1, 6], "queries": [1, 2, 3]}),
    "profile-0": _engine(profile={"batch": [0, 6, 16], "queries": [1, 2, 3]}),
    "grid": _engine(grid={"kind": "round"}),
    "precision": _engine(precision="fp64"),
    "capability-text": _engine(compute_capabilities=["sm_89"]),
    "capability-none": _engine(compute_capabilities=[]),
    "library": _engine(library="trt"),
    "library-version": _engine(library_version="ten"),
    "device": _engine(device=3),
    "sha": _engine(sha256="2" * 64),
    "sha-text": _engine(sha256="x" * 500),
    "file-other": _engine(file="engines/other.engine"),
    "file-climb": _engine(file="../other.engine"),
    "file-deep": _engine(file="engines/a/b.engine"),
    "layers": _engine(layer_precisions={"network": {"GEMM": {"FLOAT": -1}}}),
    "no-json": _sidecar("{"),
    "list": _sidecar("[1]"),
    "onnx": _then(_engine(), _other_onnx),
    "gone": _then(_engine(), _unlink("engines/one.engine")),
    "flipped": _then(_engine(), _rewrite("engines/one.engine", b"PLAN")),
    "cut": _then(_engine(), _rewrite("engines/one.engine", b"pla")),
    "sidecar-changed": _then(_engine(), _rewrite("engines/one.json", b"{")),
    "sidecar-gone": _then(_engine(), _unlink("engines/one.json", "engines/one.engine")),
    "several": _then(
        _engine("portable", compute_capabilities=["8.0+"]),
        _engine("other-device", device="NVIDIA RTX 4090"),
        _engine("exact"),
        _engine("large", profile=_BATCHES),
    ),
    "narrow": _then(_engine("exact"), _engine("narrow", precision="fp16", compute_capabilities=["8.0+"])),
    "three": _then(
        _engine("a", precision="bf16"), _engine("b"), _engine("c", library="tensorrt-rtx", precision="fp16")
    ),
    "float8": _then(_engine("a", precision="fp8"), _engine("b", precision="bf16")),
    "best-damaged": _then(
        _engine("best", precision="fp16"), _engine("second"), _rewrite("engines/best.engine", b"gone")
    ),
    "old-and-rtx": _then(
        _engine("old", library_version="10.9.0.34", command="BUNDLE --x"), _engine("rtx", library="tensorrt-rtx")
    ),
}  # fmt: skip


def engine_cases(folder: Path) -> list[dict[str, Any]]:
    """For each bundle, machine and task: the file chosen; empty if all are refused."""
    sound = folder / "sound"
    sound.parent.mkdir(parents=True, exist_ok=True)
    build_bundle(sound)
    cases = []
    for name, change in CASES.items():
        root = folder / f"{name}.scclip"
        shutil.copytree(sound, root)
        change(root)
        bundle = Bundle.open(root)
        for machine in MACHINES:
            for wanted in WANTED:
                case: dict[str, Any] = {
                    "path": str(root),
                    "machine": [machine.library, machine.version, machine.compute_capability, machine.device],
                    "wanted": {key: value for key, value in wanted.items() if key != "grid"},
                }
                if grid := wanted.get("grid"):
                    case["wanted"]["grid"] = [grid.kind, grid.rows, grid.columns]
                chosen: list[str] = []

                def choose(
                    chosen: list[str] = chosen, machine: Machine = machine, wanted: Any = wanted
                ) -> None:
                    chosen.append(choose_engine(bundle, machine, Wanted(**wanted)).file)  # noqa: B023

                with suppress(BackendError):
                    choose()
                case["file"] = chosen[0] if chosen else ""
                cases.append(case)
    return cases


def tuned_case(bundle: Path) -> dict[str, Any]:
    """What `scclip tune` would remember of a bundle, in the cache folder; the last case, as Python reads it too."""
    rows = (
        Measured(
            grid="window", precision="fp32", backend="onnxruntime", threads=1, batch=3, milliseconds=20.5
        ),
        Measured(grid="window", precision="fp32", backend="openvino", threads=2, batch=4, milliseconds=10.0),
    )
    path = write_tuned(Bundle.open(bundle), rows)
    return {
        "file": str(path.relative_to(os.environ["XDG_CACHE_HOME"])),
        "versions": library_versions(),
        "cores": default_threads(),
    }


def capability_cases() -> list[list[Any]]:
    """Which GPU loads what was built for which."""
    built = (["8.9"], ["8.6", "8.9", "12.0"], ["8.6"], ["8.0+"], ["9.0"], ["10.0+"])
    return [
        [have, gpu, supports(tuple(have), gpu)]
        for have in built
        for gpu in ("7.5", "8.6", "8.9", "9.0", "12.0", "12.1")
    ]


def _kernels() -> list[dict[str, Any]]:
    """The runtime's kernels as kernels.json lists them; their "machine code" is a name for the C++ tests."""
    kernels: list[dict[str, Any]] = []
    for variant in runtime_variants():
        labels = variant.types.get("labels", "").removeprefix("*")
        flags = [key.lower() for key in ("SOFT", "MASKED") if variant.constants.get(key)]
        kernels.append(
            {
                "name": variant.name,
                "entry": "_".join(part for part in (variant.name, labels, *flags) if part),
                "parameters": [list(parameter) for parameter in variant.types.items()],
                "constants": dict(variant.constants),
            }
        )
    return kernels


def choice_cases() -> list[dict[str, Any]]:
    """What `auto` and `fast` pick on a CPU, from precisions held, the processor and what is installed."""
    bundle: Any = SimpleNamespace()
    amd, intel = "AuthenticAMD", "GenuineIntel"
    processors = (
        (amd, ["avx2"]),
        (intel, ["avx2", "avx_vnni"]),
        (intel, ["avx512_vnni", "amx_int8"]),
        (amd, ["avx512_bf16", "avx512_vnni"]),
        (intel, ["avx512_bf16", "avx512_vnni"]),
        (intel, ["avx_ne_convert", "avx512_bf16", "amx_bf16"]),
        ("", ["avx_ne_convert"]),
    )
    sources = (("auto", None), ("openvino", None), ("onnxruntime", None), ("auto", "cpu"))
    helds = (["fp32"], ["fp32", "int8"], ["int8"], ["fp32", "fp16"])
    cases = []
    for held, precision, (vendor, flags), openvino, (backend, provider) in itertools.product(
        helds, ("auto", "fast", "fp32", "bf16", "int8"), processors, (False, True), sources
    ):
        specs = tuple(
            SimpleNamespace(precision=name, runs_on=("cuda",) if name == "fp16" else ("cpu",))
            for name in held
        )
        bundle.encoders_for = lambda _grid, specs=specs: specs
        packages = frozenset({"openvino"} if openvino else ())
        chosen = choose(
            bundle,
            backend=backend,
            device="cpu",
            precision=precision,
            ort_provider=provider,
            host=Host(flags=frozenset(flags), vendor=vendor, packages=packages),
        )
        cases.append(
            {
                "held": [spec.precision for spec in specs if "cpu" in spec.runs_on],
                "options": [backend, precision, provider or ""],
                "flags": flags,
                "vendor": vendor,
                "openvino": openvino,
                "choice": [chosen.backend, chosen.precision, chosen.reason],
            }
        )
    return cases


HOSTS: dict[str, str] = {"gpu": "", "no driver": "no NVIDIA driver on this machine", "not installed": ""}


def engine_choice_cases(folder: Path) -> list[dict[str, Any]]:
    """What `auto` picks where the bundle may hold an engine: on a GPU, without a driver, without TensorRT."""
    cases = []
    names = (
        "none",
        "one",
        "rtx",
        "capability",
        "flipped",
        "sidecar-2",
        "several",
        "narrow",
        "float8",
        "three",
        "old-and-rtx",
    )
    bundles = [Bundle.open(folder / f"{name}.scclip") for name in names]
    for bundle, device, precision, (host, failure) in itertools.product(
        bundles, ("auto", "cuda", "cuda:1", "cpu"), ("auto", "fast", "fp32", "bf16", "fp8"), HOSTS.items()
    ):
        with _host(host, failure):
            machine = Host(flags=frozenset({"avx2"}), packages=frozenset({"openvino"}))
            chosen = choose(bundle, device=device, precision=precision, host=machine)
        cases.append(
            {
                "path": str(bundle.path),
                "options": [device, precision],
                "host": host,
                "failure": failure,
                "choice": [chosen.backend, chosen.precision],
            }
        )
    return cases


@contextmanager
def _host(host: str, failure: str) -> Iterator[None]:
    """Python's view of a machine with an L4 and TensorRT, or without one of the two."""

    def gpu(number: int = 0) -> Any:
        if failure:
            raise BackendError(failure)
        return GpuDevice(number)

    with (
        mock.patch("scclip_rt.backends.cuda.device.find_gpu", gpu),
        mock.patch.object(choose_module, "engine_machine", return_value=L4),
        mock.patch.object(
            choose_module.importlib.util,
            "find_spec",
            lambda module: None if "rtx" in module or host == "not installed" else module,
        ),
    ):
        yield


@dataclass(frozen=True)
class GpuDevice:
    """As far as the choice looks at one."""

    number: int

    def __str__(self) -> str:
        return f"cuda:{self.number} ({L4.device}, sm_89)"


def kernel_bundle(root: Path, *, earlier: bool = False) -> str:
    """A bundle with kernels for three GPUs, as far as the C++ tests' driver on host memory runs them.

    With `earlier` its decode is that of another version: one kernel `decode`, with other parameters.
    """
    build_bundle(root)
    (root / "kernels").mkdir()
    entries = []
    for capability in ("8.0", "8.9", "9.0"):
        for kernel in _kernels():
            if earlier and kernel["name"] == "decode_columns":
                continue
            if earlier and kernel["name"] == "decode_rows":
                kernel["name"] = "decode"
            file = f"kernels/{kernel['entry']}.sm{capability.replace('.', '')}.cubin"
            (root / file).write_bytes(kernel["entry"].encode() + b"\0")
            common = {"file": file, "compute_capability": capability, "num_warps": 4, "shared_bytes": 50_000}
            entries.append(kernel | common | {"sha256": "0" * 64, "hidden_pointers": 2, "grid": ""})
    (root / "kernels/kernels.json").write_text(json.dumps(entries))
    document = json.loads((root / "bundle.json").read_text())
    for path in (root / "kernels").iterdir():
        content = path.read_bytes()
        entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        document["files"][f"kernels/{path.name}"] = entry
    (root / "bundle.json").write_text(json.dumps(document))
    return str(root)
