"""What a search of node pruning is given: how to search, and what in."""

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

__all__ = ["Plan", "Study"]


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
