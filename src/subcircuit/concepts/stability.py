"""How far codebooks of other seeds agree: the adjusted Rand index of what they assign (Hubert and Arabie 1985)."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from subcircuit.concepts.vectors import Vectors
from subcircuit.progress import Progress, silent

__all__ = ["adjusted_rand", "stability"]


def adjusted_rand(first: Int[Tensor, " row"], second: Int[Tensor, " row"]) -> float:
    """1 = the same partition; 0 = what chance gives."""
    table = torch.zeros(int(first.max()) + 1, int(second.max()) + 1, dtype=torch.float64)
    table.index_put_((first, second), torch.ones(len(first), dtype=torch.float64), accumulate=True)
    both, one, other = (_pairs(counts).sum() for counts in (table, table.sum(1), table.sum(0)))
    chance = one * other / _pairs(torch.tensor(float(len(first)), dtype=torch.float64))
    most = (one + other) / 2
    return 1.0 if bool(most == chance) else float((both - chance) / (most - chance))


def stability(
    method: Any, seeds: Sequence[int], states: Vectors, upper: Vectors | None = None, *, progress: Progress = silent
) -> list[float]:
    """The index of every two of these seeds' codebooks, on the states that they were fitted on."""
    found = []
    for done, seed in enumerate(seeds):
        progress("seeds", done, len(seeds))
        found.append(replace(method, seed=seed).fit(states, upper)[1])
    return [adjusted_rand(one, other) for one, other in combinations(found, 2)]


def _pairs(counts: Tensor) -> Tensor:
    return counts * (counts - 1) / 2
