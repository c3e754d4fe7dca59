"""How far codebooks of other seeds agree: the adjusted Rand index of what they assign (Hubert and Arabie 1985)."""

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["adjusted_rand"]


def adjusted_rand(first: Int[Tensor, " row"], second: Int[Tensor, " row"]) -> float:
    """1 = the same partition; 0 = what chance gives."""
    table = torch.zeros(int(first.max()) + 1, int(second.max()) + 1, dtype=torch.float64)
    table.index_put_((first, second), torch.ones(len(first), dtype=torch.float64), accumulate=True)
    both, one, other = (_pairs(counts).sum() for counts in (table, table.sum(1), table.sum(0)))
    chance = one * other / _pairs(torch.tensor(float(len(first)), dtype=torch.float64))
    most = (one + other) / 2
    return 1.0 if bool(most == chance) else float((both - chance) / (most - chance))


def _pairs(counts: Tensor) -> Tensor:
    return counts * (counts - 1) / 2
