"""How node pruning searches: the settings of the method, parsed, and where gates and their steps begin."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.gates import HardConcrete
from subcircuit.sites import CHILDREN, Kind, Site

__all__ = ["COARSE_START", "FINE_START", "LogAlpha", "Plan", "by_site", "ranked", "schedule", "worth"]

LogAlpha = dict[Kind, Float[Tensor, "layer unit"]]

COARSE_START = {Kind.BLOCK: 6.0, Kind.ATTN: 5.0, Kind.MLP: 5.0}  # log_alpha; the product of a line starts near 1
FINE_START = 3.0  # and the widest a warm start spreads fine gates to either side of 0


@dataclass(frozen=True)
class Plan:
    """How to search: the settings of the method, parsed."""

    kinds: list[Kind]
    relaxation: HardConcrete
    steps: int
    batch: int
    lr: float
    budget: float  # of the first round
    size: float | None  # a target for the cost in place of a budget for KL
    penalties: Mapping[Kind, float]  # or a weight on each kind's mean probability of being open
    warm_start: int
    share: float
    polish: int
    seed: int


def by_site(stacked: Mapping[Kind, Tensor]) -> dict[Site, Tensor]:
    """Tables of layers by units as one row per site."""
    return {Site(layer, kind): row for kind, rows in stacked.items() for layer, row in enumerate(rows)}


def worth(log_alpha: LogAlpha) -> LogAlpha:
    """What each gate is worth as a score: no more than the best gate inside it.

    Once all that a branch holds is closed its own gate moves nothing, and stays wherever it was.
    """
    found = dict(log_alpha)
    for kind in reversed([kind for kind in Kind if kind in CHILDREN]):  # branches and heads before what holds them
        inside = [found[child] for child in CHILDREN[kind] if child in found and child is not Kind.KV]
        best = [value.view(*found[kind].shape, -1).amax(-1) for value in inside] if kind in found else []
        if best:
            found[kind] = found[kind].minimum(torch.stack(best).amax(0))
    return found


def ranked(score: Float[Tensor, "layer unit"], share: float) -> Float[Tensor, "layer unit"]:
    """Gates from scores: the best `share` start open, the others closed, each as far from 0 as its score is clear."""
    edge = score.flatten().kthvalue(max(1, math.ceil((1 - share) * score.numel()))).values
    return (score / edge.clamp(min=1e-12) + 1e-9).log().clamp(-FINE_START, FINE_START)


def schedule(step: int, steps: int) -> float:
    """Share of the learning rate: ten steps up, then a cosine down to a tenth."""
    warm = min(1.0, (step + 1) / 10)
    return warm * (0.55 + 0.45 * math.cos(math.pi * step / steps))
