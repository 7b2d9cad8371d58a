"""What encoders have in common: windows are checked, cut into batches, and a NaN never passes for a result."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.backends.base import BackendInfo
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.manifest import EncoderSpec
from scclip_rt.decode.threads import parallel
from scclip_rt.errors import BackendError, not_finite

Feeds = Mapping[str, NDArray[Any]]


class BatchedEncoder(ABC):
    """An `EncoderBackend` on host arrays; a library's own part is `infer`.

    Args:
        bundle: whose encoder this is.
        spec: that encoder.
        info: what `describe` tells.
        batch: most windows that are in the graph at once.
        parts: a batch is cut into so many, and each is a run of its own, all at the same time. With one thread for
            each part no operator waits for another thread.
    """

    def __init__(
        self, bundle: Bundle, spec: EncoderSpec, info: BackendInfo, batch: int, *, parts: int = 1
    ) -> None:
        self._feature_rows = bundle.feature_rows
        self._spec = spec
        self._info = info
        self._batch_size = batch
        self.parts = parts
        # The features need no query, but the graph wants one: a single unit vector costs nothing measurable.
        self._no_text = np.zeros((1, bundle.model.embed_dim), np.float32)
        self._no_text[0, 0] = 1.0

    @abstractmethod
    def infer(self, names: Sequence[str], feeds: Feeds) -> list[NDArray[np.float32]]:
        """Run the graph once; allowed from several threads at a time.

        Args:
            names: outputs wanted, `features` or `features` and `logits`.
            feeds: `windows` (B, H, W, 3) uint8, 1 ≤ B ≤ `batch_size`, and `text` (Q, E) float32; contiguous or not.

        Returns:
            One array for each name, owned by the caller. They are checked for NaN here.

        Raises:
            BackendError: the library failed (`inference_error` makes the message).
        """

    def infer_alone(self, names: Sequence[str], feeds: Feeds) -> list[NDArray[np.float32]]:
        """`infer` for a single window that has nothing beside it: by default the same."""
        return self.infer(names, feeds)

    @property
    def spec(self) -> EncoderSpec:
        """The encoder of the bundle that is loaded."""
        return self._spec

    @property
    def batch_size(self) -> int:
        """Most windows that go through the graph at once."""
        return self._batch_size

    def features(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Windows (B, H, W, 3) uint8 to unit features (B, N, E) float32."""
        return self._split(["features"], windows, self._no_text)[0]

    def run(
        self, windows: NDArray[np.uint8], text: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Windows (B, H, W, 3) uint8 and unit queries (Q, E) to features (B, N, E) and cosines (B, N, Q)."""
        features, logits = self._split(["features", "logits"], windows, text)
        return features, logits

    def describe(self) -> BackendInfo:
        """What runs where."""
        return self._info.copy()

    def _split(
        self, names: Sequence[str], windows: NDArray[np.uint8], text: NDArray[np.float32]
    ) -> list[NDArray[np.float32]]:
        """Run in batches of at most `batch_size`, each in parts at the same time, and join what comes out."""
        self._check_windows(windows)
        patches = self._feature_rows(windows.shape[1], windows.shape[2])
        lengths = {"features": text.shape[1], "logits": text.shape[0]}

        def run(part: slice) -> list[NDArray[np.float32]]:
            wanted = windows[part]
            infer = self.infer_alone if len(windows) == 1 else self.infer
            outputs = infer(names, {"windows": wanted, "text": text})
            for name, output in zip(names, outputs, strict=True):
                check_shape(name, output, (len(wanted), patches, lengths[name]), self._spec.file)
            check_finite(names, outputs, self._spec.file)
            return outputs

        if len(windows) == 1 or (self.parts == 1 and 1 <= len(windows) <= self._batch_size):
            return run(slice(None))
        # Made once: joining parts at the end would hold everything twice.
        joined = [np.empty((len(windows), patches, lengths[name]), np.float32) for name in names]

        def fill(part: slice) -> None:
            for whole, output in zip(joined, run(part), strict=True):
                whole[part] = output

        for start in range(0, len(windows), self._batch_size):
            stop = min(start + self._batch_size, len(windows))
            parts = min(self.parts, stop - start)
            edges = [start + (stop - start) * part // parts for part in range(parts + 1)]
            parallel(fill, [slice(*edge) for edge in itertools.pairwise(edges)], parts)
        return joined

    def _check_windows(self, windows: NDArray[np.uint8]) -> None:
        wanted = next(tensor for tensor in self._spec.inputs if tensor.name == "windows").shape
        agrees = windows.dtype == np.uint8 and windows.ndim == 4
        for have, want in zip(windows.shape[1:], wanted[1:], strict=False):
            if isinstance(want, str):
                axis = self._spec.axis(want)
                longest = have if axis.max is None else axis.max
                agrees = agrees and axis.min <= have <= longest and have % axis.multiple_of == 0
            else:
                agrees = agrees and have == want
        if not agrees:
            raise ValueError(
                f"{self._spec.file} takes windows uint8 ({', '.join(map(str, wanted))}); "
                f"got {windows.dtype} {windows.shape}"
            )


def inference_error(library: str, file: str, feeds: Feeds, error: Exception) -> BackendError:
    """One line for a library's failure while it runs `file`; out of memory comes with what to lower."""
    reason = " ".join(str(error).split())[:300]
    shapes = ", ".join(f"{name} {value.shape}" for name, value in feeds.items())
    # "bad_alloc" is C++'s, "Failed to allocate" and "out of memory" are the libraries' own words.
    if "alloc" in reason.lower() or "out of memory" in reason.lower():
        return BackendError(f"{file}: out of memory with {shapes}; lower --batch or --short-side ({reason})")
    return BackendError(f"{file}: {library} failed with {shapes}: {reason}")


def check_shape(name: str, output: NDArray[np.float32], wanted: tuple[int, ...], file: str) -> None:
    """Refuse an output of another shape than what was asked for: numpy would spread too few rows over many.

    Raises:
        BackendError: says both.
    """
    if output.shape != wanted:
        raise BackendError(
            f"{file}: {name} came back as {output.shape}, {wanted} was asked for; the graph is not what bundle.json "
            "says. Export the bundle again",
            field=file,
        )


def check_finite(names: Sequence[str], outputs: Sequence[NDArray[np.float32]], file: str) -> None:
    """Refuse outputs that hold NaN or infinity.

    Raises:
        BackendError: one of them does.
    """
    for name, output in zip(names, outputs, strict=True):
        if not np.isfinite(output).all():
            raise not_finite(f"{file}: {name}")
