"""Muon: momentum orthogonalised by Newton–Schulz steps, for the weight matrices of transformer blocks."""

from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import Executor

import torch
from torch import Tensor

# Quintic iteration whose fixed interval is around 1: singular values end between about 0.7 and 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


# Matrices orthogonalised at a time, by one thread.
BATCH = 6


@torch.no_grad()
def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Replace the singular values of (K, rows, columns) matrices by values near 1."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay; equal shapes are updated together.

    The update is scaled by 0.2·√max(rows, columns), which gives it the size of an AdamW update, so
    both optimisers share one learning rate. Three stacked projections (3D, D) are treated apart.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        pool: Executor,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
    ) -> None:
        self.pool = pool
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for param in group["params"]:
                if param.grad is None:
                    continue
                buffer = self.state[param].setdefault("momentum", torch.zeros_like(param))
                buffer.lerp_(param.grad, 1 - group["momentum"])
                update = param.grad.lerp(buffer, group["momentum"])
                rows, columns = param.shape
                parts = 3 if rows == 3 * columns else 1
                for p, u in zip(param.chunk(parts), update.chunk(parts), strict=True):
                    by_shape[p.shape].append((p, u))
            some = [pairs[i : i + BATCH] for pairs in by_shape.values() for i in range(0, len(pairs), BATCH)]
            stacks = [torch.stack([u for _, u in pairs]) for pairs in some]
            for pairs, updates in zip(some, self.pool.map(orthogonalise, stacks), strict=True):
                scale = 0.2 * max(updates.shape[1:]) ** 0.5 * group["lr"]
                for (p, _), u in zip(pairs, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(u, alpha=scale)
