"""A kernel with the types and constants it is compiled for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One kernel with the types of its arguments and its constants.

    Attributes:
        name: of the operation; several variants may share it.
        kernel: the Triton function.
        types: Triton's type of every argument that is passed at launch, by name, in order.
        constants: values of the other arguments.
        aligned: arguments that are multiples of 16 (addresses: of 16 bytes), which Triton makes use of.
        notes: what else distinguishes the variant, for kernels.json.
        num_warps: 32 threads each.
        num_stages: depth of software pipelining.
        max_registers: per thread; None leaves the choice to the assembler, which may spill for occupancy.
        targets: those that it is for; None for all.
    """

    name: str
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    aligned: frozenset[str] = frozenset()
    notes: Mapping[str, str] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 3
    max_registers: int | None = None
    targets: frozenset[int] | None = None

    def runs_on(self, target: int) -> bool:
        """Whether it is launched on a target such as 90."""
        return self.targets is None or target in self.targets

    @property
    def title(self) -> str:
        """Unique within a list of variants, and a file name."""
        flags = [key.lower() for key, value in self.constants.items() if value is True]
        return "_".join([self.name, *self.notes.values(), *flags])
