"""Multi-granular node pruning: learned masks over blocks, branches, heads, channels and neurons in one run.

After "Multi-Granular Node Pruning for Circuit Discovery" (arXiv 2512.10903). Every node gets a gate; gates of nested
nodes multiply; a closed node takes its reference's value. Departures, each an option: one budget in place of a penalty
per granularity; a start from integrated gradients; straight-through gates; a calibrated threshold and greedy polish.
"""

import logging
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, ClassVar, Self, cast, get_args

from subcircuit.circuit import Circuit
from subcircuit.costs import Cost
from subcircuit.errors import UnknownName, UsageError
from subcircuit.gates import HardConcrete, Relaxation
from subcircuit.methods._node_study import NodeStudy
from subcircuit.methods._plan import Plan
from subcircuit.methods._search import Search
from subcircuit.methods._study import check, require
from subcircuit.progress import Progress, silent
from subcircuit.records import missed
from subcircuit.sites import Kind
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs, Task

__all__ = ["NodePruning"]

log = logging.getLogger(__name__)

GATED = (Kind.BLOCK, Kind.ATTN, Kind.MLP, Kind.HEAD, Kind.CHANNEL, Kind.NEURON, Kind.MLP_OUT, Kind.KV)


@dataclass(frozen=True)
class NodePruning:
    """Find the smallest circuit whose output distribution stays within a budget of the full model's."""

    presets: ClassVar[tuple[str, ...]] = ("paper",)

    kl: Annotated[float, "budget: KL(full || circuit) at the judged position, in nats, on validation prompts"] = 0.3
    size: Annotated[float | None, "in place of the budget: the fraction of the cost to keep, 0 to 1"] = None
    budgets: Annotated[str, "several KL budgets, e.g. 0.1,0.3,1: a nested family of circuits from one run"] = ""
    steps: Annotated[int, "optimisation steps; each further budget of a family takes half as many"] = 120
    batch: Annotated[int, "prompt pairs in a step"] = 16
    lr: Annotated[float, "learning rate of the gates (Adam, no weight decay)"] = 0.3
    pairs: Annotated[int, "discovery prompt pairs"] = 192
    validation: Annotated[int, "validation prompt pairs, for the threshold and the polish"] = 64
    kinds: Annotated[str, "granularities with gates; mlp_out and kv may be added"] = (
        "block,attn,mlp,head,channel,neuron"
    )
    reference: Annotated[str, "what fills a closed node: corrupt, mean, zero or resample"] = "corrupt"
    cost: Annotated[str, "what is made small: parameters, nodes or flops"] = "parameters"
    weights: Annotated[str, "in place of cost and budget: a penalty per granularity, e.g. head=1,neuron=5"] = ""
    gates: Annotated[str, "relaxation of the gates: median, straight-through or sampled"] = "median"
    warm_start: Annotated[int, "integration steps of the attribution pass the gates start from; 0 = all open"] = 4
    open: Annotated[float, "share of the fine nodes that a warm start opens; 0 = as few as the budget takes"] = 0.0
    polish: Annotated[int, "greedy trials at branch and head level; 0 = none"] = 12
    seed: Annotated[int, "seed of prompts, batches and noise"] = 0
    cache_gb: Annotated[float, "reference activations kept in memory, at most; what does not fit is recomputed"] = 2.0

    def find(
        self,
        subject: Subject,
        task: Task,
        pairs: Pairs | None = None,
        *,
        folder: Path | None = None,
        progress: Progress = silent,
    ) -> Circuit:
        """The circuit for `kl` (or `size`); of a family, the one with the smallest budget.

        Raises UsageError for settings that make no sense, NumericalError when the loss is not finite, Interrupted when
        stopped by the keyboard while a `folder` keeps the state.
        """
        return self.family(subject, task, pairs, folder=folder, progress=progress)[0]

    def family(
        self,
        subject: Subject,
        task: Task,
        pairs: Pairs | None = None,
        *,
        folder: Path | None = None,
        progress: Progress = silent,
    ) -> list[Circuit]:
        """One circuit per budget, the smallest budget first, each inside the one before it."""
        study = NodeStudy("node-pruning", self, subject, task, pairs, folder)
        study.prepare(progress)
        search = Search(self.plan(), study, progress)
        circuits = []
        for index, budget in enumerate(self._budgets()):
            search.run(index, budget)
            kept, scores, kl = search.circuit(index, budget)
            cache = study.corrupted.cached
            result = {"kl": kl, "cost": search.cost(kept), "cache_bytes": cache} | self._goal(budget)
            circuits.append(Circuit(scores, kept, study.origin(result, kl=budget)))
            if missed(result):
                log.warning("the budget is not met: %s; this is the nearest circuit", result)
        return circuits

    def __post_init__(self) -> None:
        self._gated()
        self._penalties()
        self._budgets()
        check(self)
        for name, what, known in (("gates", "gate relaxation", Relaxation), ("cost", "cost", Cost)):
            if getattr(self, name) not in get_args(known):
                raise UnknownName(what, getattr(self, name), get_args(known))
        require(self, "steps", self.steps >= 1, "at least 1")
        for name in ("warm_start", "polish"):
            require(self, name, getattr(self, name) >= 0, "0 or more")
        require(self, "lr", 0 < self.lr < math.inf, "a number above 0")
        require(self, "open", 0 <= self.open <= 1, "a share from 0 to 1")
        require(self, "size", self.size is None or 0 < self.size <= 1, "a share of the cost, above 0 and at most 1")
        goals = [name for name in ("budgets", "size", "weights") if getattr(self, name)]
        if len(goals) > 1:
            raise UsageError(f"{' and '.join(goals)} are different goals", "give one of them")

    @classmethod
    def paper(cls, **changes: object) -> Self:
        """The published form: a penalty per granularity on the mean probability of being open, sampled gates, all open
        at the start, threshold 0, no polish.

        The values are those of the first author's development code of 2026 (GPT-2, IOI). Whether the paper's tables
        were made with them is not known, so results with this preset are no reproduction.
        """
        names = {field.name for field in fields(cls)}
        unknown = set(changes) - names
        if unknown:
            raise UnknownName("setting", sorted(unknown)[0], names)
        kinds = str(changes.get("kinds", "attn,mlp,head,channel,neuron,mlp_out"))
        weights = ",".join(f"{kind.strip()}=1" for kind in kinds.split(","))
        preset = {"gates": "sampled", "warm_start": 0, "polish": 0, "lr": 0.03, "steps": 500, "batch": 32}
        return cls(**{**preset, "kinds": kinds, "weights": weights, **changes})  # type: ignore[arg-type]

    def _goal(self, budget: float) -> dict[str, float]:
        """What the circuit has to stay within; penalties name no goal."""
        if self.size is not None:
            return {"size": self.size}
        return {} if self.weights else {"budget": budget}

    def _budgets(self) -> list[float]:
        budgets = [self.kl]
        if self.budgets:
            try:
                budgets = sorted(float(text) for text in self.budgets.split(","))
            except ValueError as error:
                raise UsageError(f"budgets are '{self.budgets}'", "write numbers and commas, e.g. 0.1,0.3,1") from error
        for budget in budgets:
            if not 0 < budget < math.inf:
                raise UsageError(f"a KL budget of {budget:g} nats", "give a number above 0")
        if len({f"{budget:g}" for budget in budgets}) < len(budgets):
            raise UsageError(f"budgets are '{self.budgets}'", "give each of them once")
        return budgets

    def _gated(self) -> list[Kind]:
        names = [name.strip() for name in self.kinds.split(",")]
        for name in names:
            if name not in GATED:
                raise UnknownName("granularity", name, GATED)
        return [kind for kind in GATED if kind in names]

    def _penalties(self) -> dict[Kind, float]:
        form = "write name=number, e.g. head=1,neuron=5"
        found = {}
        for text in self.weights.split(",") if self.weights else []:
            name, _, value = (part.strip() for part in text.partition("="))
            if name not in self._gated():
                raise UnknownName("gated granularity", name, self._gated())
            try:
                found[Kind(name)] = float(value)
            except ValueError as error:
                raise UsageError(f"the weight of {name} is '{value}'", form) from error
            if not 0 <= found[Kind(name)] < math.inf:
                raise UsageError(f"the weight of {name} is {value}", "give a number, 0 or more")
        return found

    def plan(self) -> Plan:
        """The settings, parsed."""
        return Plan(
            kinds=self._gated(),
            relaxation=HardConcrete(cast(Relaxation, self.gates)),
            steps=self.steps,
            batch=self.batch,
            lr=self.lr,
            budget=self._budgets()[0],
            size=self.size,
            penalties=self._penalties(),
            warm_start=self.warm_start,
            share=self.open,
            polish=self.polish,
            seed=self.seed,
        )
