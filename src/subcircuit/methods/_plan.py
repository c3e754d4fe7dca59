"""What a search of node pruning is given: how to search, what in, and where the gates and their steps begin."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from subcircuit.costs import Prices
from subcircuit.finishing import Validation
from subcircuit.gates import HardConcrete
from subcircuit.intervention import Reference
from subcircuit.sites import Kind
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs

__all__ = ["COARSE_START", "FINE_START", "Plan", "Study", "ranked", "schedule"]

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
    size: float | None  # a target for the cost in place of a budget for KL
    penalties: Mapping[Kind, float]  # or a weight on each kind's mean probability of being open
    warm_start: int
    share: float
    polish: int
    seed: int


@dataclass(frozen=True)
class Study:
    """What is searched in: the model, discovery prompts with their full logits, validation prompts, prices."""

    subject: Subject
    pairs: Pairs
    reference: Reference
    validation: Validation
    prices: Prices
    full: Float[Tensor, "pair vocab"]


def ranked(score: Float[Tensor, "layer unit"], share: float) -> Float[Tensor, "layer unit"]:
    """Gates from scores: the best `share` start open, the others closed, each as far from 0 as its score is clear."""
    edge = score.flatten().kthvalue(max(1, math.ceil((1 - share) * score.numel()))).values
    return (score / edge.clamp(min=1e-12) + 1e-9).log().clamp(-FINE_START, FINE_START)


def schedule(step: int, steps: int) -> float:
    """Share of the learning rate: ten steps up, then a cosine down to a tenth."""
    warm = min(1.0, (step + 1) / 10)
    return warm * (0.55 + 0.45 * math.cos(math.pi * step / steps))
