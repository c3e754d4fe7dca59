"""In which order a search looks at candidates: by influence, or by a graph network where that has proved to be better.

The network learns from lots of train prompts, each with a graph and a search of its own. It is judged on prompts of the
validation split, of which no lot had any: how well its chances rank what a search by influence keeps of their graph,
and what a search by its chances keeps, in how many tests. It is taken where it ranks better and its search keeps fewer
features, or as many in fewer tests. Labels come from searches by influence, so the comparison leans towards influence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from subcircuit.errors import DataError, UsageError
from subcircuit.graphs.candidates import Candidates, combined
from subcircuit.graphs.graph import Graph
from subcircuit.graphs.membership import Membership
from subcircuit.graphs.search import Choice, HierarchySearch
from subcircuit.graphs.switching import Switches
from subcircuit.ground_truth.ranking import Ranked, ranked
from subcircuit.progress import Progress, silent
from subcircuit.tasks._base import Pairs

__all__ = ["LOTS", "Lesson", "Lessons", "Order", "Ordering", "Scorer", "Trial", "by_influence", "chosen", "ordered_by"]

LOTS = 4  # of train prompts
FEWEST = 2  # prompts of a lot

Order = Literal["influence", "gnn"]
Scorer = Callable[[Candidates], Float[Tensor, " candidate"]]


class Trial(BaseModel):
    """One order on the held-out prompts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ranking: Ranked = Field(description="of what the search by influence kept, among all candidates of these prompts")
    features: int = Field(description="that its own search kept")
    value: float = Field(description="of the behaviour that they keep")
    tests: int = Field(description="that its own search took")


class Ordering(BaseModel):
    """Which order was taken, and why."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    taken: Order
    learned: int = Field(description="train prompts that the network learned from")
    prompts: int = Field(description="of the validation split, that it was judged on")
    influence: Trial
    gnn: Trial


@dataclass(frozen=True)
class Lesson:
    """Candidates of some prompts, and what a search by influence kept of them on these prompts."""

    found: Candidates
    switches: Switches
    choice: Choice


@dataclass(frozen=True)
class Lessons:
    """How lots of prompts become lessons."""

    search: HierarchySearch
    switch: Callable[[Pairs], Switches]
    by_position: bool = True

    def of(self, graphs: Sequence[Graph], pairs: Pairs) -> Lesson:
        """The lesson of prompts, by their graphs."""
        switches = self.switch(pairs)
        found = combined(graphs, switches.transcoders, by_position=self.by_position)
        return Lesson(found, switches, self.search.find(found, switches))

    def lots(
        self, graphs: Sequence[Graph], pairs: Pairs, lots: int = LOTS, progress: Progress = silent
    ) -> list[Lesson]:
        """Those of lots whose circuits reach the goal. Raises UsageError for few prompts, DataError where none does."""
        if len(pairs) < FEWEST * lots:
            raise UsageError(
                f"{len(pairs)} train prompts are too few for the {lots} lots that a graph network learns from",
                f"give --pairs {FEWEST * lots} or more",
            )
        found = []
        for lot, rows in enumerate(torch.arange(len(pairs)).chunk(lots)):
            found.append(self.of([graphs[row] for row in rows.tolist()], pairs[rows]))
            progress("lots", lot + 1, lots)
        reached = [each for each in found if each.choice.value >= self.search.goal]
        if not reached:
            raise DataError(
                f"no circuit of any of {lots} lots of train prompts keeps {self.search.goal:g}: nothing to learn from",
                "lower --goal, give more --pairs, or --order influence",
            )
        return reached


def chosen(lessons: Sequence[Lesson], held: Lesson, search: HierarchySearch, seed: int = 0) -> tuple[Ordering, Scorer]:
    """A network that learned from lessons beside influence, on held-out prompts, and how the better one scores."""
    network = Membership.fit([(each.found, each.choice.kept) for each in lessons], seed=seed)
    chances, kept = network.chances(held.found), held.choice.kept
    influence = _trial(held.found.influence, kept, held.choice)
    gnn = _trial(chances, kept, search.find(ordered_by(held.found, chances), held.switches))
    prompts, learned = len(held.switches.pairs), sum(len(each.switches.pairs) for each in lessons)
    finds = gnn.value >= search.goal and (gnn.features, gnn.tests) < (influence.features, influence.tests)
    better = finds and (gnn.ranking.auprc or 0.0) > (influence.ranking.auprc or 0.0)
    told = Ordering(
        taken="gnn" if better else "influence", learned=learned, prompts=prompts, influence=influence, gnn=gnn
    )
    return told, network.chances if better else by_influence


def by_influence(found: Candidates) -> Float[Tensor, " candidate"]:
    """The order that needs no learning."""
    return found.influence


def ordered_by(found: Candidates, scores: Float[Tensor, " candidate"]) -> Candidates:
    """Candidates that a search takes in another order."""
    return replace(found, influence=scores)


def _trial(scores: Float[Tensor, " candidate"], kept: Bool[Tensor, " candidate"], choice: Choice) -> Trial:
    return Trial(ranking=ranked(scores, kept), features=int(choice.kept.sum()), value=choice.value, tests=choice.tests)
