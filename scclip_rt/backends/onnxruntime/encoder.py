"""The two encoders on ONNX Runtime."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.backends.base import BackendInfo, EncoderRequest, KnownTokens
from scclip_rt.backends.choose import DeviceKind, attention_form, batch_size, choose_encoder
from scclip_rt.backends.host_encoder import BatchedEncoder, Feeds, check_finite, inference_error
from scclip_rt.backends.onnxruntime.session import (
    CUDA_GRAPHS,
    PROVIDERS,
    choose_provider,
    create_session,
    load_onnxruntime,
    nodes_on_the_cpu,
)
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.engine_fit import version_numbers
from scclip_rt.bundle.manifest import EncoderSpec, TextEncoderSpec
from scclip_rt.cpus import default_threads
from scclip_rt.errors import BackendError

_AUTO_PRECISIONS: dict[DeviceKind, tuple[str, ...]] = {"cpu": ("fp32",), "cuda": ("fp16", "fp32")}
ATTENTION_SINCE = (1, 31)
"""From this ONNX Runtime on its CUDA provider gets the file with ONNX's Attention: the first seen to be faster with it.
The kernel came in 1.25; before, the node would run on the CPU."""


class OnnxRuntimeEncoder(BatchedEncoder):
    """An image encoder on ONNX Runtime; see `EncoderBackend` for the methods' contract."""

    def __init__(
        self, session: Any, bundle: Bundle, spec: EncoderSpec, info: BackendInfo, batch: int
    ) -> None:
        super().__init__(bundle, spec, info, batch)
        self._session = session

    def infer(self, names: Sequence[str], feeds: Feeds) -> list[NDArray[np.float32]]:
        """One run of the session; see `BatchedEncoder.infer`."""
        return _run(self._session, names, feeds, self._spec.file)


class OnnxRuntimeText:
    """The text encoder on ONNX Runtime's CPU provider; see `TextBackend`.

    Args:
        session: of one of the bundle's graphs for texts.
        spec: the text encoder.
        file: the graph's, for messages.
    """

    def __init__(self, session: Any, spec: TextEncoderSpec, file: str) -> None:
        self._session, self._spec, self._file = session, spec, file

    def encode(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Token rows (B, T) int64, T at most the context length, to unit vectors (B, E) float32."""
        if (
            tokens.dtype != np.int64
            or tokens.ndim != 2
            or not 1 <= tokens.shape[1] <= self._spec.context_length
        ):
            raise ValueError(
                f"tokens must be int64 (B, T), T from 1 to {self._spec.context_length}; "
                f"got {tokens.dtype} {tokens.shape}"
            )
        return self._run(["embeddings"], self._feeds(tokens))[0]

    def _feeds(self, tokens: NDArray[np.int64]) -> Feeds:
        return {"tokens": tokens}

    def _run(self, names: Sequence[str], feeds: Feeds) -> list[NDArray[np.float32]]:
        outputs = _run(self._session, names, feeds, self._file)
        check_finite(names, outputs, self._file)
        return outputs


class OnnxRuntimeResumingText(OnnxRuntimeText):
    """The text encoder that goes on from known beginnings; see `ResumingTextBackend`."""

    def keys_and_values(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Beginnings (B, T) int64 to their keys and values (layers, 2, B, heads, T, D / heads)."""
        past = self._past_shape
        names = [f"present.{layer}.{part}" for layer in range(past[0]) for part in ("key", "value")]
        outputs = self._run(names, self._feeds(tokens))
        return np.stack(outputs).reshape(past[0], 2, *outputs[0].shape)

    def resume(
        self, tokens: NDArray[np.int64], known: KnownTokens, beginnings: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """What follows known beginnings, (B, T) int64, to unit vectors (B, E) float32."""
        return self._run(["embeddings"], self._resumed(tokens, known, beginnings))[0]

    def _feeds(self, tokens: NDArray[np.int64]) -> Feeds:
        """For texts from the start: they go on from a beginning of no tokens."""
        nothing = KnownTokens(values=np.zeros(self._past_shape, np.float32), lengths=np.zeros(1, np.int64))
        return self._resumed(tokens, nothing, np.zeros(len(tokens), np.int64))

    @property
    def _past_shape(self) -> list[int]:
        """Of one beginning of one token."""
        past = next(tensor for tensor in self._session.get_inputs() if tensor.name == "past")
        return [length if isinstance(length, int) else 1 for length in past.shape]

    @staticmethod
    def _resumed(tokens: NDArray[np.int64], known: KnownTokens, beginnings: NDArray[np.int64]) -> Feeds:
        return {
            "tokens": tokens,
            "past": known.values,
            "past_lengths": known.lengths,
            "beginnings": beginnings,
        }


def open_text(bundle: Bundle, *, precision: str = "fp32", threads: int | None = None) -> OnnxRuntimeText:
    """Load the text encoder, the one that resumes if there is one.

    Arguments and errors as `scclip_rt.backends.open_text_backend`.
    """
    graph = bundle.text_graphs(precision).graphs[-1]
    kind = OnnxRuntimeText if bundle.text_graphs(precision).resumed is None else OnnxRuntimeResumingText
    return kind(create_session(bundle, graph, threads=threads), bundle.text_encoder, graph.file)


def open_encoder(bundle: Bundle, request: EncoderRequest) -> BatchedEncoder:
    """Load an image encoder; errors as `scclip_rt.backends.open_backend`."""
    provider, number = choose_provider(request.ort_provider, request.device)
    kind: DeviceKind = "cpu" if provider == "cpu" else "cuda"
    if request.precision == "fp16" and kind == "cpu":
        raise BackendError(
            "precision 'fp16' is refused on the CPU: ONNX Runtime has no fp16 arithmetic there, so it is "
            "slower than fp32 and can crash while optimising the graph; use --precision fp32 or "
            "--device cuda:0",
            field="precision",
        )
    precisions = _AUTO_PRECISIONS[kind] if request.precision == "auto" else (request.precision,)
    spec = choose_encoder(bundle, precisions=precisions, kind=kind, grid=request.grid)
    opened = functools.partial(_open, bundle, request, provider=provider, number=number)
    form = attention_form(bundle, spec) if provider == "cuda" else None
    if form is None:
        return opened(spec)
    version = str(load_onnxruntime().__version__)
    if version_numbers(version) < ATTENTION_SINCE:
        return opened(spec, why=f"{form.file} is for ONNX Runtime 1.31 and later, this is {version}")
    try:
        return opened(form, why=f"ONNX Runtime {version} has the Attention of {form.file} on CUDA")
    except BackendError as error:
        refused = f"{form.file} was refused ({error})"
    return opened(spec, why=refused)


def _open(
    bundle: Bundle, request: EncoderRequest, spec: EncoderSpec, *, provider: str, number: int, why: str = ""
) -> BatchedEncoder:
    """Load one encoder; `why` this one is told behind the request's reason."""
    kind: DeviceKind = "cpu" if provider == "cpu" else "cuda"
    batch = batch_size(spec, request.batch, kind)
    info = BackendInfo(
        backend="onnxruntime",
        version=load_onnxruntime().__version__,
        provider=PROVIDERS[provider],
        device="cpu" if kind == "cpu" else f"cuda:{number}",
        precision=spec.precision,
        grid=str(spec.grid),
        encoder=spec.file,
        threads=request.threads or default_threads(),
        batch=batch,
        reason="; ".join(part for part in (request.reason, why) if part),
    )
    opened = functools.partial(
        create_session,
        bundle,
        spec,
        provider=provider,
        device=number,
        threads=request.threads,
        all_on_gpu=spec.has_attention,
    )
    if kind == "cpu":
        return OnnxRuntimeEncoder(opened(), bundle, spec, info, batch)
    from scclip_rt.backends.onnxruntime.device import open_on_device

    on_device = open_on_device(
        opened, bundle, spec, info, batch, number=number, cuda_graphs=request.ort_provider == CUDA_GRAPHS
    )
    if on_device is not None:
        return on_device
    session = opened()
    info["details"] = {**info.get("details", {}), "nodes_on_the_cpu": nodes_on_the_cpu(session)}
    return OnnxRuntimeEncoder(session, bundle, spec, info, batch)


def _run(session: Any, names: Sequence[str], feeds: Feeds, file: str) -> list[NDArray[np.float32]]:
    """Run a session; its failures become one line."""
    try:
        outputs: list[NDArray[np.float32]] = session.run(list(names), dict(feeds))
    # onnxruntime's exceptions share no public base class.
    except Exception as error:
        raise inference_error("ONNX Runtime", file, feeds, error) from error
    return outputs
