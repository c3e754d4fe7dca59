"""A circuit of features found from coarse groups to single ones, by interventions.

First the fewest most influential features that keep the behaviour, by bisection. Then groups of the hierarchy are tried
from the coarsest level down, the least influential first: a group without which the behaviour stays is dropped whole,
one that is needed is looked at again as the groups that it is made of. So a feature costs a test of its own only where
all groups that it was in were needed, and a budget of tests ends the search with whatever is left.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from subcircuit.errors import UnknownName, UsageError
from subcircuit.graphs.candidates import Candidates
from subcircuit.graphs.coarsening import Hierarchy, coarsen
from subcircuit.graphs.switching import Switches
from subcircuit.metrics import logit_difference
from subcircuit.progress import Progress, silent

__all__ = ["Choice", "HierarchySearch", "Measure", "behaviour", "flat_greedy"]

Measure = Literal["exact-match", "faithfulness"]
Chosen = Bool[Tensor, " candidate"]
Value = Callable[[Chosen], float]


@dataclass(frozen=True)
class Choice:
    """Features that are kept, and how they came to be."""

    kept: Chosen
    value: float  # of the behaviour that is left, on the prompts of the search
    tests: int  # runs of all those prompts
    groups: tuple[Int[Tensor, " member"], ...] = ()  # what is kept, in the groups that were needed
    levels: tuple[int, ...] = ()  # groups at each level, the finest first


@dataclass(frozen=True)
class HierarchySearch:
    """How a circuit is searched. Raises UsageError for settings out of range."""

    goal: Annotated[float, "share of the behaviour that the circuit keeps"] = 0.9
    measure: Annotated[str, "exact-match: the full model's top token; faithfulness: of the logit difference"] = (
        "exact-match"
    )
    factor: Annotated[int, "by which each level has fewer groups"] = 4
    tests: Annotated[int | None, "runs with features off, at most; left out: a tenth of the candidates"] = None

    def __post_init__(self) -> None:
        if self.measure not in get_args(Measure):
            raise UnknownName("measure", self.measure, get_args(Measure))
        if not 0 < self.goal <= 1 or (self.tests is not None and self.tests < 1):
            raise UsageError(f"goal is {self.goal} and tests {self.tests}", "give a share up to 1, and 1 test or more")

    def find(self, found: Candidates, switches: Switches, *, progress: Progress = silent) -> Choice:
        """The circuit. Where all candidates together miss the goal, they are what is returned."""
        value, before = behaviour(found, switches, self.measure), switches.tests
        budget = self.tests if self.tests is not None else max(20, len(found) // 10)
        order = found.influence.argsort(descending=True, stable=True)
        kept, left = _bisected(order, value, self.goal)
        hierarchy = coarsen(found.graph, factor=self.factor)
        groups: list[Tensor] = []
        waiting = _ordered(hierarchy, len(hierarchy) - 1, range(hierarchy.sizes[-1]), found)
        while waiting and left >= self.goal:
            level, group = waiting.pop(0)
            members = hierarchy.members(level, group)
            members = members[kept[members]]
            if not len(members):
                continue
            spent = switches.tests - before >= budget
            trial = kept.index_fill(0, members, False)
            if not spent and (now := value(trial)) >= self.goal:
                kept, left = trial, now
            elif spent or not level:
                groups.append(members)
            else:
                waiting += _ordered(hierarchy, level - 1, hierarchy.children(level, group), found)
            progress("search", min(switches.tests - before, budget), budget, kept=float(kept.sum()))
        return Choice(kept, left, switches.tests - before, tuple(groups), tuple(hierarchy.sizes))


def behaviour(found: Candidates, switches: Switches, measure: Measure | str) -> Value:
    """How much of the behaviour a choice keeps: 1 = as the full model."""
    if measure == "exact-match":
        return lambda chosen: float(switches.judged(found.keep(chosen))["exact_match"].mean())
    nothing = torch.zeros(len(found), dtype=torch.bool)
    empty = float(switches.judged(found.keep(nothing))["logit_difference"].mean())
    pairs, full = switches.pairs, switches.full
    gap = float(logit_difference(full, pairs.right, pairs.wrong).mean()) - empty
    if not gap:
        raise UsageError("the full model and the empty circuit do the same on these prompts", "give other prompts")
    return lambda chosen: (float(switches.judged(found.keep(chosen))["logit_difference"].mean()) - empty) / gap


def flat_greedy(
    found: Candidates, switches: Switches, *, goal: float, measure: Measure | str = "exact-match"
) -> Choice:
    """The control: every candidate tried by itself, the least influential first, and dropped where that may be."""
    value, before = behaviour(found, switches, measure), switches.tests
    kept = torch.ones(len(found), dtype=torch.bool)
    left = value(kept)
    for candidate in found.influence.argsort(stable=True).tolist():
        if left < goal:
            break
        trial = kept.index_fill(0, torch.tensor([candidate]), False)
        if (now := value(trial)) >= goal:
            kept, left = trial, now
    return Choice(kept, left, switches.tests - before)


def _bisected(order: Int[Tensor, " candidate"], value: Value, goal: float) -> tuple[Chosen, float]:
    """The fewest first ones that reach the goal, as far as halving finds them; all where they do not reach it."""

    def first(count: int) -> Chosen:
        return torch.zeros(len(order), dtype=torch.bool).index_fill(0, order[:count], True)

    low, high, best = 0, len(order), value(first(len(order)))
    if best < goal:
        return first(high), best
    while high - low > 1:
        middle = (low + high) // 2
        found = value(first(middle))
        if found >= goal:
            high, best = middle, found
        else:
            low = middle
    return first(high), best


def _ordered(hierarchy: Hierarchy, level: int, groups: Sequence[int], found: Candidates) -> list[tuple[int, int]]:
    """Groups of a level, the least influential first."""
    masses = [(float(found.influence[hierarchy.members(level, group)].sum()), group) for group in groups]
    return [(level, group) for _, group in sorted(masses)]
