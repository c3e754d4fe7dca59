"""From a task to a circuit of features: graphs of some prompts, a search on others, evidence on a third set.

The three come from the task's train, validation and test splits, so that no prompt that judges was looked at before.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Self, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field

from subcircuit.errors import UnknownName, UsageError
from subcircuit.features.transcoders import Transcoders
from subcircuit.files import load_record, save_record
from subcircuit.graphs.attribution import Attribution
from subcircuit.graphs.candidates import Candidates, combined, graphs_of
from subcircuit.graphs.evidence import FeatureEvidence, weigh
from subcircuit.graphs.graph import Graph
from subcircuit.graphs.membership import require_gnn
from subcircuit.graphs.ordering import LOTS, Lessons, Order, Ordering, Scorer, by_influence, chosen, ordered_by
from subcircuit.graphs.search import HierarchySearch, flat_greedy
from subcircuit.graphs.switching import Ablation, Switches, mean_features
from subcircuit.progress import Progress, silent
from subcircuit.records import versions
from subcircuit.subject import Subject
from subcircuit.tasks._base import SPLITS, Pairs, Task

__all__ = ["FEATURES", "FeatureCircuit", "FeatureStudy", "Group"]

FEATURES = "features.json"
SCHEMA = 1


class Group(BaseModel):
    """Features that the search kept or would have dropped together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: str
    features: list[str] = Field(description="layer.number@position; without a position where they are not told apart")


class FeatureCircuit(BaseModel):
    """`features.json`: a circuit of features, where it comes from, and its evidence."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA
    model: str
    revision: str
    task: str
    task_options: dict[str, Any]
    transcoders: dict[str, str] = Field(description="the model they are of, and where they read and write")
    settings: dict[str, Any]
    features: list[str] = Field(description="what is kept, as in groups")
    groups: list[Group]
    candidates: int
    levels: list[int] = Field(description="groups at each level of the hierarchy, the finest first")
    goal: float
    value: float = Field(description="of the behaviour that is left, on validation prompts")
    tests: int = Field(description="runs of all validation prompts with features off")
    flat_tests: int | None = Field(description="of the greedy search without groups; null where it was not run")
    order: Ordering | None = Field(None, description="of the search; null where influence was asked for")
    evidence: FeatureEvidence = Field(description="on test prompts")
    seconds: float
    versions: dict[str, str] = Field(default_factory=versions)

    def save(self, folder: Path) -> None:
        """Write `features.json`, whole or not at all. Raises ResourceError."""
        save_record(self, folder / FEATURES)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """From a folder. Raises DataError when it is missing, broken or of another schema version."""
        maker = "give a folder that `subcircuit find hierarchy` wrote"
        return load_record(cls, folder / FEATURES, "a circuit of features", missing=maker, broken="find it again")


@dataclass(frozen=True)
class FeatureStudy:
    """How a circuit of features is found and judged. Raises UsageError or UnknownName for settings out of range."""

    goal: Annotated[float, "share of the behaviour that the circuit keeps on validation prompts"] = 0.9
    measure: Annotated[str, "exact-match: the full model's top token; faithfulness: of the logit difference"] = (
        "exact-match"
    )
    ablation: Annotated[str, "what a feature that is off is set to: counterfactual, mean or zero"] = "counterfactual"
    pairs: Annotated[int, "train prompts whose graphs are made"] = 32
    validation: Annotated[int, "prompts of the search"] = 128
    test: Annotated[int, "prompts of the evidence"] = 128
    by_position: Annotated[bool, "tell positions apart; the prompts must be equally long"] = True
    factor: Annotated[int, "by which each level has fewer groups"] = 4
    order: Annotated[str, "influence, or gnn: a graph network where it beats influence on validation prompts"] = (
        "influence"
    )
    tests: Annotated[int | None, "runs with features off, at most; left out: a tenth of the candidates"] = None
    max_features: Annotated[int, "nodes of a prompt's graph"] = 2000
    skip: Annotated[int, "tokens at the start whose features are left to the errors"] = 1
    greedy: Annotated[bool, "also search without groups, one feature at a time, as a control"] = False
    draws: Annotated[int, "random controls"] = 20
    seed: Annotated[int, "of the prompts and the random controls"] = 0

    def __post_init__(self) -> None:
        if self.ablation not in get_args(Ablation):
            raise UnknownName("ablation", self.ablation, get_args(Ablation))
        if self.order not in get_args(Order):
            raise UnknownName("order", self.order, get_args(Order))
        if self.order == "gnn":
            require_gnn()
        for name in ("pairs", "validation", "test", "draws"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}", "give 1 or more")
        if self.factor < 2:
            raise UsageError(f"factor is {self.factor}", "give 2 or more")
        self._search()
        self._attribution()

    def find(
        self, subject: Subject, transcoders: Transcoders, task: Task, *, progress: Progress = silent
    ) -> FeatureCircuit:
        """The circuit of a task and its evidence. Raises DataError for prompts or transcoders that do not fit."""
        start = perf_counter()
        sizes = dict(zip(SPLITS, (self.pairs, self.validation, self.test), strict=True))
        train, validation, test = (
            task.pairs(subject.tokenizer, size, seed=self.seed, split=split) for split, size in sizes.items()
        )
        graphs = self._graphs(subject, transcoders, train, progress)
        found = combined(graphs, transcoders, by_position=self.by_position)
        searched, judged = (self._switches(subject, transcoders, each, train) for each in (validation, test))
        order, scores = self._order(subject, graphs, train, searched, progress)
        choice = self._search().find(ordered_by(found, scores(found)), searched, progress=progress)
        flat = flat_greedy(found, searched, goal=self.goal, measure=self.measure) if self.greedy else None
        progress("evidence", 0, 1)
        others = {"greedy": flat.kept} if flat else {}
        told = weigh(found, judged, choice.kept, others=others, draws=self.draws, seed=self.seed)
        progress("evidence", 1, 1)
        return FeatureCircuit(
            model=subject.name,
            revision=subject.revision,
            task=task.name,
            task_options=_options(task),
            transcoders={"model": transcoders.model, "reads": transcoders.reads, "writes": transcoders.writes},
            settings=asdict(self),
            features=[self._name(found, feature) for feature in choice.kept.nonzero()[:, 0].tolist()],
            groups=[self._group(found, members.tolist()) for members in choice.groups],
            candidates=len(found),
            levels=list(choice.levels),
            goal=self.goal,
            value=choice.value,
            tests=choice.tests,
            flat_tests=flat.tests if flat else None,
            order=order,
            evidence=told,
            seconds=round(perf_counter() - start, 1),
        )

    def _graphs(self, subject: Subject, transcoders: Transcoders, pairs: Pairs, progress: Progress) -> list[Graph]:
        return graphs_of(
            subject, transcoders, pairs, self._attribution(), by_position=self.by_position, progress=progress
        )

    def _order(
        self, subject: Subject, graphs: list[Graph], train: Pairs, searched: Switches, progress: Progress
    ) -> tuple[Ordering | None, Scorer]:
        if self.order == "influence":
            return None, by_influence
        transcoders, search = searched.transcoders, self._search()
        lessons = Lessons(search, lambda pairs: self._switches(subject, transcoders, pairs, train), self.by_position)
        lots = lessons.lots(graphs, train, progress=progress)
        few = searched.pairs[torch.arange(min(-(-len(train) // LOTS), len(searched.pairs)))]
        held = lessons.of(self._graphs(subject, transcoders, few, progress), few)
        return chosen(lots, held, search, self.seed)

    def _attribution(self) -> Attribution:
        return Attribution(max_features=self.max_features, skip=self.skip)

    def _search(self) -> HierarchySearch:
        return HierarchySearch(self.goal, self.measure, self.factor, self.tests)

    def _switches(self, subject: Subject, transcoders: Transcoders, pairs: Pairs, train: Pairs) -> Switches:
        means = None
        if self.ablation == "mean":
            means = mean_features(subject, transcoders, train.clean, by_position=self.by_position, skip=self.skip)
        ablation: Ablation = next(each for each in get_args(Ablation) if each == self.ablation)
        return Switches(subject, transcoders, pairs, ablation=ablation, means=means, skip=self.skip)

    def _name(self, found: Candidates, feature: int) -> str:
        name = found.graph.name(feature)
        return name if self.by_position else name.partition("@")[0]

    def _group(self, found: Candidates, members: list[int]) -> Group:
        layers = sorted({int(found.graph.features[member, 0]) for member in members})
        where = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]}-{layers[-1]}"
        best = max(members, key=lambda member: float(found.influence[member]))
        return Group(
            label=f"{where}: {self._name(found, best)}", features=[self._name(found, each) for each in members]
        )


def _options(task: Task) -> dict[str, Any]:
    options: dict[str, Any] = asdict(task) if hasattr(task, "__dataclass_fields__") else {}  # type: ignore[call-overload]
    return options
