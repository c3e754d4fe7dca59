"""From scores to a hard circuit, by one rule for all methods that rank nodes.

The same top share of every fine granularity is kept: a share that is given, or the smallest whose KL on validation
prompts meets a budget. Coarser granularities follow: a head stays while one of its channels does. Under a budget a node
whose score is nothing but rounding is kept only where nothing less than the whole model will do.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.circuit import Circuit, tidy
from subcircuit.errors import UnknownName, UsageError
from subcircuit.methods._study import Study, require
from subcircuit.progress import Progress
from subcircuit.sites import Kind, Site

__all__ = ["Rank", "Target", "check_target", "circuit", "fine"]

log = logging.getLogger(__name__)

Rank = Literal["magnitude", "signed"]
Scores = Mapping[Site, Float[Tensor, " unit"]]
Truth = dict[Site, Bool[Tensor, " unit"]]

ROUNDING = 1e-6  # of a granularity's largest score: what float32 leaves of a node that does nothing
MADE_OF: Mapping[Kind, tuple[tuple[Kind, ...], ...]] = {  # one of each group, and the kind follows from them
    Kind.BLOCK: ((Kind.ATTN, Kind.HEAD, Kind.CHANNEL), (Kind.MLP, Kind.NEURON, Kind.MLP_OUT)),
    Kind.ATTN: ((Kind.HEAD, Kind.CHANNEL),),
    Kind.HEAD: ((Kind.CHANNEL,),),
    Kind.MLP: ((Kind.NEURON, Kind.MLP_OUT),),
}


class Target(Protocol):
    """The fields that say how large the circuit is to be."""

    @property
    def kl(self) -> float: ...
    @property
    def size(self) -> float | None: ...
    @property
    def rank(self) -> str: ...


def check_target(target: Target) -> None:
    """Refuse goals that make no sense. Raises UsageError or UnknownName."""
    if target.rank not in get_args(Rank):
        raise UnknownName("ranking", target.rank, get_args(Rank))
    if not 0 < target.kl < math.inf:
        raise UsageError(f"a KL budget of {target.kl:g} nats", "give a number above 0")
    require(target, "size", target.size is None or 0 < target.size <= 1, "a share of the nodes, above 0 and at most 1")


def circuit(study: Study, scores: Scores, target: Target, tell: Progress, **facts: float) -> Circuit:
    """The circuit that these scores choose; `facts` join its result. Raises NumericalError when its KL is no number."""
    ranking = Ranking(study.kinds, scores, target.rank)
    if target.size is not None:
        share, goal = target.size, dict[str, float]()
        kept = ranking.top(share, silent_too=True)
    else:
        share, goal = _smallest(study, ranking, target.kl, tell), {"budget": target.kl}
        kept = ranking.top(share)
    result = {"kl": study.kl(kept), "share": share, **goal, **facts}
    if share == 1 and target.size is None:
        log.warning("no part of the model keeps KL within %g nats by these scores: everything is kept", target.kl)
    return Circuit(dict(scores), kept, study.origin(result))


def fine(kinds: Sequence[Kind]) -> list[Kind]:
    """The granularities that are chosen; the others follow from what is chosen inside them."""
    return [
        kind for kind in kinds if kind not in MADE_OF or not all(set(group) & set(kinds) for group in MADE_OF[kind])
    ]


class Ranking:
    """Nodes of each fine granularity in the order of their scores, over all layers; equal scores by position."""

    def __init__(self, kinds: Sequence[Kind], scores: Scores, rank: str) -> None:
        self.sites = list(scores)
        self.units = {site: len(scores[site]) for site in self.sites}
        self.order: dict[Kind, Tensor] = {}
        self.loud: dict[Kind, int] = {}  # how many come before those whose score is nothing
        for kind in fine(kinds):
            flat = torch.cat([scores[site].float() for site in self._of(kind)])
            heard = flat.abs() > ROUNDING * flat.abs().max()
            value = (flat.abs() if rank == "magnitude" else flat).masked_fill(~heard, -torch.inf)
            self.order[kind] = value.sort(descending=True, stable=True).indices
            self.loud[kind] = int(heard.sum())

    @property
    def longest(self) -> int:
        """Nodes of the granularity that has most of them."""
        return max(len(order) for order in self.order.values())

    def top(self, share: float, *, silent_too: bool = False) -> Truth:
        """The circuit of the best `share` of every fine granularity; with all of them, of everything."""
        kept = {site: torch.ones(units, dtype=torch.bool) for site, units in self.units.items()}
        for kind, order in self.order.items():
            count = math.ceil(round(share * len(order), 6))  # 0.1 * 30 is a little more than 3
            if share < 1 and not silent_too:
                count = min(count, self.loud[kind])
            flat = torch.zeros(len(order), dtype=torch.bool).index_fill(0, order[:count], True)
            sites = self._of(kind)
            kept |= dict(zip(sites, flat.split([self.units[site] for site in sites]), strict=True))
        return tidy(kept)

    def _of(self, kind: Kind) -> list[Site]:
        return [site for site in self.sites if site.kind is kind]


def _smallest(study: Study, ranking: Ranking, budget: float, tell: Progress) -> float:
    """The smallest share that meets the budget, to one node of the longest granularity, by bisection.

    As if KL only fell with the share; where it does not, a share that meets the budget and whose next smaller one does
    not.
    """
    n = ranking.longest
    low, high, tries, done = -1, n, math.ceil(math.log2(n + 1)), 0
    while high - low > 1:
        middle = (low + high) // 2
        kl = study.kl(ranking.top(middle / n))
        low, high = (low, middle) if kl <= budget else (middle, high)
        done += 1
        tell("threshold", done, max(tries, done), kl=kl)
    return high / n
