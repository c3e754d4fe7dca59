"""Multi-component causal tracing: the k components whose joint replacement moves a metric most.

After "Multi-component Causal Tracing in Large Language Models" (arXiv 2606.03085). A component's value becomes
`(1 - m) own + m other`, with `other` from a counterfactual run, cached once; what comes after it is recomputed. Departs
from it: the budget is exact (shares are projected onto the capped simplex), the objective is the mean log ratio, swaps
follow, and one run gives the nested sets of several budgets. The preset `paper` has its penalties.
"""

import logging
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self, get_args

from subcircuit.circuit import Circuit
from subcircuit.errors import UnknownName, UsageError
from subcircuit.methods._components import FINE, Cost, check_apart
from subcircuit.methods._study import check, gated, require
from subcircuit.methods._trace_rivals import Found, by_lot, by_mask, by_singles, greedily, penalised
from subcircuit.methods._trace_search import Climb
from subcircuit.methods._tracing import Tracing
from subcircuit.positions import check_positions
from subcircuit.progress import Progress, silent
from subcircuit.replacement import check_direction, find_metric
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs, Task

__all__ = ["CausalTracing"]

log = logging.getLogger(__name__)

Search = Literal["gates", "paper", "dcm", "singles", "greedy", "random"]


@dataclass(frozen=True)
class CausalTracing:
    """Find the k components whose joint replacement by a counterfactual run moves a metric most."""

    presets: ClassVar[tuple[str, ...]] = ("paper", "dcm")

    k: Annotated[int, "components to replace together"] = 10
    budgets: Annotated[str, "in place of k: several sizes, e.g. 2,5,10: nested sets from one run"] = ""
    metric: Annotated[str, "odds-ratio, probability, logit-difference, accuracy, kl, or module:function"] = "odds-ratio"
    direction: Annotated[str, "noise (counterfactual into clean) or denoise (clean into counterfactual)"] = "noise"
    kinds: Annotated[str, "granularities that lie apart, e.g. head,mlp; also attn, block, neuron, channel, ..."] = (
        "head"
    )
    group: Annotated[int, "neurons, channels or MLP outputs side by side that are one component"] = 1
    cost: Annotated[str, "what k counts: components; or units or parameters, the smallest component's being 1"] = (
        "components"
    )
    positions: Annotated[str, "all; or where components are replaced apart: judged,changed,rest (or some), or each"] = (
        "all"
    )
    search: Annotated[str, "gates; to compare with: paper, dcm, singles (top-k), greedy (the oracle), random"] = "gates"
    steps: Annotated[int, "steps of the gates for each budget; with search paper: epochs; with dcm: all steps"] = 8
    lr: Annotated[float, "the largest move of a share in a step; with search paper or dcm: Adam's learning rate"] = 0.5
    polish: Annotated[int, "exchanges in the chosen set tried for each budget; 0 = none"] = 24
    exact: Annotated[int, "sets: where there are no more to choose from, all of them are tried"] = 512
    penalty: Annotated[
        float, "with search paper: lambda of both penalties, times the epoch; with dcm: of the L1 penalty"
    ] = 0.05
    pairs: Annotated[int, "discovery prompt pairs"] = 32
    validation: Annotated[int, "validation prompt pairs, for the effect that is reported"] = 64
    reference: Annotated[str, "the counterfactual: corrupt, mean, zero, resample, noise or noise-all"] = "corrupt"
    limit: Annotated[int, "passes of one prompt, at most, of singles and greedy; more are refused"] = 100_000
    batch: Annotated[int, "prompts in a pass"] = 32
    seed: Annotated[int, "seed of the prompts, the noise and the lots"] = 0
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
        """The set of `k` components; of several budgets, the smallest set.

        Raises UsageError for more components than there are, NumericalError for a metric that is not finite with
        nothing or everything replaced, Interrupted when stopped while a `folder` keeps the state.
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
        """One set of components per budget, the smallest first, each inside the next but for the paper's search."""
        tracing = Tracing("causal-tracing", self, subject, task, pairs, folder)
        budgets = self._budgets()
        self._require_fit(tracing, budgets)
        with tracing.resumable():
            self._tell_wrong_way(tracing)
            sets, scores = self.sets(tracing, budgets, progress)
            circuits = [tracing.circuit(chosen, scores, k) for chosen, k in zip(sets, budgets, strict=True)]
        for chosen, k in zip(sets, budgets, strict=True):
            if tracing.components.alike and int(chosen.sum()) != k:
                log.warning("%d components are chosen, not %d: penalties hold no budget", int(chosen.sum()), k)
        return circuits

    def __post_init__(self) -> None:
        check(self)
        check_apart(gated(self.kinds))
        find_metric(self.metric)
        check_direction(self.direction, self.reference)
        check_positions(self.positions)
        if self.cost not in get_args(Cost):
            raise UnknownName("cost", self.cost, get_args(Cost))
        self._budgets()
        if self.search not in get_args(Search):
            raise UnknownName("search", self.search, get_args(Search))
        for name in ("group", "steps", "limit"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("polish", "exact"):
            require(self, name, getattr(self, name) >= 0, "0 or more")
        require(self, "lr", 0 < self.lr < math.inf, "a number above 0")
        require(self, "penalty", 0 <= self.penalty < math.inf, "a number, 0 or more")

    @classmethod
    def paper(cls, **changes: object) -> Self:
        """The published form: Adam on clamped shares from 0.5, the reward 1/(1 + ell), penalties that grow by epoch,
        threshold 0.5 after each of them, the first set that is small enough.

        Values are those of the authors' scripts: 15 epochs at 0.1, or 30 at 0.5 over fine kinds; lambda 0.05.
        """
        fine = any(kind in gated(str(changes.get("kinds", "head"))) for kind in FINE)
        preset = {"search": "paper", "steps": 30 if fine else 15, "lr": 0.5 if fine else 0.1}
        return cls._preset({**preset, "penalty": 0.05, "polish": 0, "batch": 32}, changes)

    @classmethod
    def dcm(cls, **changes: object) -> Self:
        """A differentiable mask with an L1 penalty (Davies et al. 2023): Adam on clamped shares from nothing replaced,
        the k largest after 100 steps.

        Values are those of that work's scripts: learning rate 0.01, lambda from the middle of their range.
        """
        return cls._preset({"search": "dcm", "steps": 100, "lr": 0.01, "penalty": 0.03, "polish": 0}, changes)

    @classmethod
    def _preset(cls, preset: dict[str, object], changes: dict[str, object]) -> Self:
        names = {field.name for field in fields(cls)}
        unknown = set(changes) - names
        if unknown:
            raise UnknownName("setting", sorted(unknown)[0], names)
        return cls(**{**preset, **changes})  # type: ignore[arg-type]

    def sets(self, tracing: Tracing, budgets: list[int], tell: Progress = silent) -> Found:
        """The components of each budget by this search, and their scores; goes on from the tracing's memory."""
        match self.search:
            case "random":
                return by_lot(tracing, budgets)
            case "singles":
                return by_singles(tracing, budgets, tell)
            case "greedy":
                return greedily(tracing, budgets, tell)
            case "paper":
                return penalised(tracing, budgets, self.steps, self.lr, self.penalty, tell)
            case "dcm":
                return by_mask(tracing, budgets, self.steps, self.lr, self.penalty, tell)
        climb = Climb(tracing, self.steps, self.lr, self.polish, self.exact, tell)
        return climb.run(budgets), climb.scores

    def _budgets(self) -> list[int]:
        budgets = [self.k]
        if self.budgets:
            try:
                budgets = sorted(int(text) for text in self.budgets.split(","))
            except ValueError as error:
                raise UsageError(f"budgets are '{self.budgets}'", "write whole numbers and commas: 2,5,10") from error
        if min(budgets) < 1:
            raise UsageError(f"{min(budgets)} components to replace", "give at least 1")
        if len(set(budgets)) < len(budgets):
            raise UsageError(f"budgets are '{self.budgets}'", "give each of them once")
        return budgets

    def _require_fit(self, tracing: Tracing, budgets: list[int]) -> None:
        count = math.floor(float(tracing.components.costs.sum()))
        if max(budgets) > count:
            what = "components" if tracing.components.alike else f"times the smallest component's {self.cost}"
            raise UsageError(
                f"{max(budgets)} {what} to replace, and {tracing.subject.name} has {count} of {self.kinds}",
                f"give at most {count}, or finer --kinds",
            )

    def _tell_wrong_way(self, tracing: Tracing) -> None:
        wrong, count = tracing.replacing.wrong_way, len(tracing.pairs)
        if wrong:
            log.warning("in %d of %d pairs replacing everything moves the metric the wrong way; kept", wrong, count)
