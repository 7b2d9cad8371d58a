"""The torch encoders that benchmarks/gpu measures, and the model they are of."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.models import ARCHITECTURES, Visual, encoder, fused_attention, visual
from benchmarks.gpu.run import Row, Run
from benchmarks.gpu.torch_models import DenseDecode, Encoder, Photo, logits_of, unit_text, windows_of
from synthetic import scene

AUTOTUNED = "max-autotune-no-cudagraphs"
COMPILATION = 60.0
"""Seconds left for a compilation, with the minute that every row has: a row that is cut off in it counts as failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """An encoder in torch.

    Attributes:
        name: in the rows.
        precision: fp32, fp16 or bf16.
        make: builds it.
        method: `scclip`, or `none` for the plain encoder.
        batches: numbers of windows that it is timed at.
        photo: whether whole images are timed too.
        needs: seconds that a row may take beyond what every row does; see `Run.wants`.
    """

    name: str
    precision: str
    make: Callable[[], Encoder]
    method: str = "scclip"
    batches: tuple[int, ...]
    photo: bool = True
    needs: float = 0.0


@dataclass(slots=True)
class Subject:
    """One model with its photo, queries, and what float32 makes of them."""

    run: Run
    arch: str
    photo: Photo = field(init=False)
    text: dict[int, Tensor] = field(init=False)
    _tower: Visual | None = None
    _expected: dict[str, dict[int, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _, _, patch, resolution, embed, *_ = ARCHITECTURES[self.arch]
        # Triton's interpreter walks through every block in Python: few pixels for the quick run.
        size = (24, 32) if self.run.args.quick else (375, 500)
        self.photo = Photo.of(scene(*size), resolution // patch)
        self.text = {count: unit_text(count, embed, self.device) for count in self.run.args.queries}

    @property
    def device(self) -> torch.device:
        """Where everything is."""
        return self.run.clock.device

    @property
    def tower(self) -> Visual:
        """The weights, made when they are first needed."""
        if self._tower is None:
            self._tower = visual(self.arch)
        return self._tower

    def module(self, precision: str, method: str = "scclip", **options: Any) -> Any:
        """An encoder of the exporter's on the device."""
        options = {"attend": fused_attention} | options
        return encoder(
            self.tower, self.arch, precision=precision, method=method, device=self.device, **options
        )

    def labels(self, encode: Encoder) -> dict[int, Tensor]:
        """Label maps of the photo, by number of queries."""
        windows = windows_of(self.photo, len(self.photo.tiling), self.device)
        decode = DenseDecode(self.photo.plan, self.device)
        return {count: decode(encode(windows, rows)) for count, rows in self.text.items()}

    def expected(self, method: str) -> dict[int, Tensor]:
        """The labels of the float32 encoder, eager."""
        if method not in self._expected:
            self._expected[method] = self.labels(logits_of(self.module("fp32", method)))
        return self._expected[method]


def eager_contenders(subject: Subject) -> Iterator[Contender]:
    """Without the compiler."""
    batches = tuple(subject.run.args.windows)
    narrow = ("fp16", "bf16") if subject.run.clock.on_gpu else ()  # emulated on a CPU, and slow

    def of(name: str, precision: str, method: str = "scclip", **options: Any) -> Contender:
        return Contender(
            name=f"{name} {precision}",
            precision=precision,
            method=method,
            make=lambda: logits_of(subject.module(precision, method, **options)),
            # float32 is there for comparison: few sizes, since a large batch takes a second.
            batches=tuple(b for b in batches if b <= 6) if precision == "fp32" else batches,
            photo=method == "scclip",
        )

    yield of("eager", "fp32")
    for precision in narrow:
        yield of("eager", precision)
        # Not on a CPU: the interpreter takes minutes, and the kernels have rows of their own.
        yield of("kernels", precision, kernels="triton")
        yield of("all kernels", precision, kernels="triton", trunk="triton")
    for precision in narrow or ("fp32",):
        yield of("plain eager", precision, "none")


def compiled_contenders(subject: Subject) -> Iterator[Contender]:
    """With torch.compile, which takes up to a minute for each batch size: fp16 alone, and few sizes."""
    windows, on_gpu = subject.run.args.windows, subject.run.clock.on_gpu
    precision, sizes = ("fp16", (6, 32, 64)) if on_gpu else ("fp32", tuple(windows))
    # On a CPU the compiler proper takes minutes and says nothing about GPUs: its front end is what CI can check.
    static: Row = {"dynamic": False} if on_gpu else {"backend": "eager"}

    def of(
        name: str, sizes: tuple[int, ...], method: str = "scclip", how: Row = static, **options: Any
    ) -> Contender:
        return Contender(
            name=f"{name} {precision}",
            precision=precision,
            method=method,
            make=lambda: logits_of(subject.module(precision, method, **options), how),
            batches=tuple(b for b in windows if b in sizes),
            photo=method == "scclip" and on_gpu,
            needs=COMPILATION if on_gpu else 0.0,
        )

    yield of("compiled", sizes)
    if on_gpu:
        yield of("kernels, compiled", (6, 32), kernels="triton")
        yield of("plain compiled", (32,), "none")
        yield of("all kernels, compiled", (6, 32, 64), kernels="triton", trunk="triton")
        # The compiler's own search: its products with QuickGELU inside, where they beat cuBLAS's and a kernel behind.
        yield of("kernels, autotuned", (64,), kernels="triton", how=static | {"mode": AUTOTUNED})
