"""What is known of an NVIDIA GPU without a context on it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """What is known of a GPU by its number; `scclip_rt.backends.cuda.Device` is one with a context on it.

    Attributes:
        number: as in `cuda:N`.
        name: NVIDIA's.
        compute_capability: (major, minor), (9, 0) for an H100.
    """

    number: int
    name: str
    compute_capability: tuple[int, int]

    @property
    def capability(self) -> str:
        """The compute capability as sidecars and options write it, such as `8.9`."""
        return "{}.{}".format(*self.compute_capability)

    def __str__(self) -> str:
        return "cuda:{} ({}, sm_{}{})".format(self.number, self.name, *self.compute_capability)
