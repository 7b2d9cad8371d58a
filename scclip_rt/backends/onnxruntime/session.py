"""ONNX Runtime sessions: providers by name, no silent fallback, graphs that agree with the manifest."""

import contextlib
import functools
import importlib
import io
import os
import re
import warnings
from pathlib import Path
from typing import Any

from scclip_rt.backends.graph_check import GraphTensors, check_graph
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.manifest import GraphSpec
from scclip_rt.cpus import default_threads
from scclip_rt.errors import BackendError, BundleError
from scclip_rt.files import cache_for_libraries

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
CUDA_GRAPHS = "cuda-graphs"
"""The CUDA provider with its own CUDA graphs, see `scclip_rt.backends.onnxruntime.cuda_graphs`."""
_DTYPES = {"tensor(uint8)": "uint8", "tensor(int64)": "int64", "tensor(float)": "float32"}


def load_onnxruntime() -> Any:
    """Import ONNX Runtime, without its telemetry.

    Official builds of 1.32 send events to Microsoft over HTTPS unless this variable is set before they load
    (their Privacy.md). Segmenting a photo should not open a connection; a user who sets it keeps the say.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime  # 0.15 s, which `import scclip_rt` shall not take

    return onnxruntime


def choose_provider(ort_provider: str | None, device: str) -> tuple[str, int]:
    """The provider and device number that the two options ask for together.

    Args:
        ort_provider: `cpu`, `cuda` (or `cuda-graphs`), `tensorrt`, or None to follow `device`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Returns:
        A key of `PROVIDERS` that is installed, and the GPU's number (0 for the CPU).

    Raises:
        BackendError: an unknown name, a contradiction, or a provider that is not installed.
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device)
    if match is None:
        raise BackendError(
            f"unknown device {device!r}; known: auto, cpu, cuda:N (cuda:0 is the first GPU)", field="device"
        )
    if ort_provider == CUDA_GRAPHS:
        ort_provider = "cuda"
    if ort_provider is not None and ort_provider not in PROVIDERS:
        raise BackendError(
            f"unknown ONNX Runtime provider {ort_provider!r}; known: {', '.join(PROVIDERS)}",
            field="ort_provider",
        )
    on_gpu = device.startswith("cuda")
    provider = ort_provider or ("cuda" if on_gpu else "cpu")
    if device != "auto" and on_gpu != (provider != "cpu"):
        raise BackendError(
            f"provider {provider!r} doesn't run on device {device!r}; "
            f"use --device {'cpu' if provider == 'cpu' else 'cuda:0'} or another --ort-provider",
            field="ort_provider",
        )
    _check_installed(provider)
    return provider, int(match.group(1) or 0)


def _check_installed(provider: str) -> None:
    onnxruntime = load_onnxruntime()
    available = onnxruntime.get_available_providers()
    if PROVIDERS[provider] in available:
        return
    names = ", ".join(key for key, value in PROVIDERS.items() if value in available) or "none"
    raise BackendError(
        f"ONNX Runtime {onnxruntime.__version__} here has no {provider!r} provider; it has: {names}. "
        "Put the GPU build (extra `gpu`) in the CPU build's place, as both write the same folder: "
        "`pip uninstall -y onnxruntime onnxruntime-gpu`, then `pip install 'onnxruntime-gpu[cuda,cudnn]'`; "
        "or use --device cpu",
        field="ort_provider",
    )


@functools.cache
def warn_about_double_install() -> None:
    """Warn once if both builds of ONNX Runtime are installed: they overwrite each other's files."""
    # importlib.metadata takes as long to load as a session, and Path.glob longer than a list of all names.
    installed = sorted(os.listdir(Path(load_onnxruntime().__file__).parents[1]))  # noqa: PTH208
    found = [
        f"{name.replace('_', '-')} {entry[len(name) + 1 : -len('.dist-info')]}"
        for name in ("onnxruntime", "onnxruntime_gpu")
        for entry in [e for e in installed if e.startswith(f"{name}-") and e.endswith(".dist-info")][:1]
    ]
    if len(found) > 1:
        warnings.warn(
            f"{' and '.join(found)} are both installed and share one folder, so which one runs is chance. "
            "Cure: `pip uninstall -y onnxruntime onnxruntime-gpu`, then `pip install onnxruntime-gpu` (GPU) "
            "or `pip install onnxruntime` (CPU)",
            UserWarning,
            stacklevel=2,
        )


@functools.cache
def preload_gpu_libraries(provider: str) -> str:
    """Load CUDA, cuDNN and TensorRT out of the wheels that pip put them into, where no loader looks by itself.

    ONNX Runtime's provider libraries name them without a path, so a process finds what it has loaded already, and
    otherwise LD_LIBRARY_PATH and the system's folders alone. Libraries that are installed there are taken too.

    Args:
        provider: `cuda` or `tensorrt`.

    Returns:
        What ONNX Runtime prints about libraries that are missing, in one line; empty where all were found.
    """
    words = io.StringIO()
    # It prints, and standard output is where `--json` goes. Older than 1.21 has no such function.
    with contextlib.redirect_stdout(words), contextlib.suppress(RuntimeError):
        getattr(load_onnxruntime(), "preload_dlls", lambda: None)()
    if provider == "tensorrt":
        # The import loads libnvinfer. Whatever is wrong with it, the provider says what it misses.
        with contextlib.suppress(ImportError, OSError, RuntimeError):
            importlib.import_module("tensorrt")
    return " ".join(words.getvalue().split())[:300]


def _provider_options(provider: str, device: int, cuda_graphs: bool) -> list[tuple[str, dict[str, str]]]:
    if provider == "cpu":
        return [(PROVIDERS["cpu"], {})]
    # TF32 has the mantissa of fp16; anomaly detection and the norms are defined in fp32.
    cuda = (PROVIDERS["cuda"], {"device_id": str(device), "use_tf32": "0"})
    if provider == "cuda":
        if cuda_graphs:
            cuda[1]["enable_cuda_graph"] = "1"
        return [cuda]
    # The TensorRT provider has no switch for TF32, only NVIDIA's own, read when the libraries load.
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    engines = cache_for_libraries() / "ort-tensorrt"
    options = {
        "device_id": str(device),
        "trt_engine_cache_enable": "1",  # a build takes minutes
        "trt_engine_cache_path": str(engines),
    }
    return [(PROVIDERS["tensorrt"], options), cuda]


def create_session(
    bundle: Bundle,
    spec: GraphSpec,
    *,
    provider: str = "cpu",
    device: int = 0,
    threads: int | None = None,
    optimize: bool = True,
    cuda_graphs: bool = False,
    all_on_gpu: bool = False,
) -> Any:
    """Load a graph of a bundle and check that it runs where asked and is what the manifest says.

    Args:
        bundle: where the graph is.
        spec: which graph.
        provider: a key of `PROVIDERS`.
        device: the GPU's number.
        threads: CPU threads; None takes `default_threads`.
        optimize: False for a session that is only looked at, which loads faster.
        cuda_graphs: with `cuda`, for `scclip_rt.backends.onnxruntime.cuda_graphs.GraphRuns` alone: a run at
            other addresses than those captured would read the old ones.
        all_on_gpu: refuse a graph of which a node would run on the CPU.

    Returns:
        An `onnxruntime.InferenceSession`.

    Raises:
        BackendError: the provider was not taken, or not for every node where `all_on_gpu` asks for it.
        BundleError: damaged, not a model, or other tensors than the manifest's.
    """
    onnxruntime = load_onnxruntime()
    warn_about_double_install()
    path = bundle.checked_graph(spec.file)
    level = "ORT_ENABLE_ALL" if optimize else "ORT_DISABLE_ALL"
    options = _options(threads or default_threads(), level)
    if provider != "cpu":
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if all_on_gpu:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    missing = "" if provider == "cpu" else preload_gpu_libraries(provider)
    try:
        # Else a provider that fails, now or in a run, is another one from then on, told on standard output alone.
        session = onnxruntime.InferenceSession(
            str(path),
            sess_options=options,
            providers=_provider_options(provider, device, cuda_graphs),
            enable_fallback=0,
        )
    # onnxruntime's exceptions share no public base class.
    except Exception as error:
        raise _load_error(path, provider, error) from error
    taken = session.get_providers()[0]
    if taken != PROVIDERS[provider]:
        raise BackendError(
            f"asked for {PROVIDERS[provider]}, ONNX Runtime took {taken}: a driver or library it needs is "
            "missing (CUDA, cuDNN or TensorRT of the version this onnxruntime-gpu wants); install it, or use "
            f"--device cpu{f' ({missing})' if missing else ''}"
        )
    check_graph(spec, _tensors(session.get_inputs()), _tensors(session.get_outputs()))
    return session


def cpu_session(
    model: str | bytes, *, threads: int = 0, level: str = "ORT_ENABLE_ALL", weights: Path | None = None
) -> Any:
    """A session on the CPU for a graph that is in no bundle.

    Args:
        model: a file's path, or its bytes.
        threads: 0 takes ONNX Runtime's own number.
        level: of `GraphOptimizationLevel`.
        weights: the folder of external weights, for bytes.
    """
    options = _options(threads, level)
    if weights is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights))
    return load_onnxruntime().InferenceSession(model, options, providers=[PROVIDERS["cpu"]])


def _options(threads: int, level: str) -> Any:
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Idle workers that spin take the cores from decoding and from other processes: on two busy cores a B/16
    # window took 0.61 s without spinning and 0.70 s with it (medians, interleaved).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 3  # errors come back as exceptions; the warnings are about graph details
    return options


def nodes_on_the_cpu(session: Any) -> dict[str, int]:
    """Which nodes of a session on a GPU run on the CPU all the same, by operator: each costs two copies over the bus.

    A provider has kernels for the versions of operators that its release knows: CUDA's for `Pad` of opset 19 and
    `ReduceMax` of opset 20, which the encoders use, came in 2026 (onnxruntime issues 26393 and 27729). Empty where
    ONNX Runtime is too old to tell (before 1.24).
    """
    ask = getattr(session, "get_provider_graph_assignment_info", None)
    parts = [] if ask is None else ask()
    names = [node.op_type for part in parts if part.ep_name == PROVIDERS["cpu"] for node in part.get_nodes()]
    return {name: names.count(name) for name in sorted(set(names))}


def _load_error(path: Path, provider: str, error: Exception) -> BackendError | BundleError:
    reason = " ".join(str(error).split())[:300]
    if provider == "cpu":
        return BundleError(f"{path}: ONNX Runtime can't load it: {reason}")
    return BackendError(f"{path}: ONNX Runtime can't load it on {provider}: {reason}")


def _tensors(values: list[Any]) -> GraphTensors:
    return {value.name: (_DTYPES.get(value.type, value.type), tuple(value.shape)) for value in values}
