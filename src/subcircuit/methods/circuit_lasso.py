"""CircuitLasso: the circuit as a sparse linear model of the activations themselves, from forward passes alone.

After "Scalable Circuit Learning for Interpreting LLMs" (Yin et al. 2026, arXiv 2606.16939): every part of the model is
regressed on all parts before it, with a lasso penalty; what has a coefficient is an edge. Departures, each an option:
rows are differences between clean and corrupted prompts; one penalty for a whole block of coefficients; queries, keys
and values are targets of their own; the output is one too, and edges that do not lead to it are dropped.
"""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.circuit import Circuit
from subcircuit.edge_tables import connected, node_paths, on_paths
from subcircuit.errors import UnknownName, UsageError
from subcircuit.methods._edge_study import Table, Truth
from subcircuit.methods._lasso_path import LassoPath
from subcircuit.methods._lasso_study import LassoStudy
from subcircuit.methods._lasso_views import Rows, Sink
from subcircuit.methods._ranked import check_target
from subcircuit.methods._study import check, require
from subcircuit.progress import Progress, silent
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs, Task

__all__ = ["CircuitLasso"]

log = logging.getLogger(__name__)

Select = Literal["budget", "cv", "bic", "stability"]
Penalty = Literal["group", "plain"]
Targets = Literal["inputs", "outputs"]


@dataclass(frozen=True)
class CircuitLasso:
    """Regress every part of the model on all parts before it; what the lasso keeps, and leads to the output, is it."""

    kinds: ClassVar[str] = "head,mlp"  # the nodes that edges join
    rank: ClassVar[str] = "signed"  # scores are norms
    presets: ClassVar[tuple[str, ...]] = ("paper",)

    kl: Annotated[float, "budget: KL(full || circuit) at the judged position, in nats, on validation prompts"] = 0.3
    size: Annotated[float | None, "in place of the budget: the share of the edges to keep, 0 to 1"] = None
    select: Annotated[str, "edges by: budget (--kl or --size), cv (one standard error), bic or stability"] = "budget"
    alpha: Annotated[float | None, "in place of select: one penalty for all targets, which have a power of 1"] = None
    penalty: Annotated[str, "on the norm of each writer-to-target block (group), or on each coefficient (plain)"] = (
        "group"
    )
    rows: Annotated[str, "what is regressed: differences (clean - corrupt), tokens, or prompts (their means)"] = (
        "differences"
    )
    targets: Annotated[str, "what heads take in (inputs: q, k, v apart) or what they write (outputs)"] = "inputs"
    sink: Annotated[str, "the output: answers (the logits of all answers) or logit-difference"] = "answers"
    channels: Annotated[int, "principal components of each writer and target; 0 = all channels as they are"] = 8
    standardise: Annotated[bool, "give every column of a writer a variance of 1"] = True
    prune: Annotated[bool, "drop what does not lead from the input to the output"] = True
    steps: Annotated[
        int | None, "penalties on the path below lambda_max; 4 to rank edges, 12 to choose one of them"
    ] = None
    shrink: Annotated[float, "the last penalty, as a share of lambda_max"] = 0.003
    folds: Annotated[int, "folds of the pairs, for cv and stability"] = 5
    pairs: Annotated[int, "discovery prompt pairs"] = 64
    validation: Annotated[int, "validation prompt pairs, for the size of the circuit"] = 64
    reference: Annotated[str, "what a closed edge carries when KL is taken: corrupt, mean, zero or resample"] = (
        "corrupt"
    )
    batch: Annotated[int, "prompt pairs in a pass, both prompts together"] = 32
    seed: Annotated[int, "seed of the prompts"] = 0
    cache_gb: Annotated[float, "activations kept in memory, at most; what does not fit is recomputed"] = 2.0

    @classmethod
    def paper(cls, **changes: object) -> Self:
        """The published form, as far as it is told: the plain lasso on what heads and MLPs write, prompt means.

        Nothing is standardised or pruned; the sink is the logit difference. Where the paper leaves the choice of lambda
        open, BIC makes it.
        """
        published = {
            "penalty": "plain",
            "rows": "prompts",
            "targets": "outputs",
            "sink": "logit-difference",
            "standardise": False,
            "prune": False,
            "select": "bic",
        }
        return cls(**{**published, **changes})  # type: ignore[arg-type]

    def find(
        self,
        subject: Subject,
        task: Task,
        pairs: Pairs | None = None,
        *,
        folder: Path | None = None,
        progress: Progress = silent,
    ) -> Circuit:
        """The edges with a coefficient; an edge's score is its block's norm, averaged over the path.

        Raises UnsupportedModel for an encoder, NumericalError for an activation that is not finite, ResourceError for
        more columns than fit, Interrupted when stopped while a `folder` keeps the state.
        """
        study = LassoStudy("circuit-lasso", self, subject, task, pairs, folder)
        with study.resumable():
            path = LassoPath(study, study.sums(progress), self._ratios(), plain=self.penalty == "plain")
            path.run(progress)
            scores = on_paths(study.wiring, path.scores) if self.prune else path.scores
            kept = self._kept(study, path, scores, progress)
            nodes = node_paths(study.wiring, scores)
            goal = {"budget": self.kl} if self._by_kl else {}
            return study.circuit(scores, kept, nodes, **goal)

    def _ratios(self) -> Float[Tensor, " step"]:
        """The penalties, as shares of lambda_max."""
        steps = self.steps or (4 if self.select == "budget" else 12)
        return torch.logspace(0, math.log10(self.shrink), steps + 1, dtype=torch.float64)

    @property
    def _by_kl(self) -> bool:
        return self.select == "budget" and self.size is None and self.alpha is None

    def _kept(self, study: LassoStudy, path: LassoPath, scores: Table, tell: Progress) -> Truth:
        if self.alpha is not None or self.select != "budget":
            chosen = path.chosen("bic" if self.alpha is not None else self.select)
            kept = chosen & study.wiring.allowed
            kept = connected(study.wiring, kept) if self.prune else kept
            if not kept.any():
                self._tell_empty(study)
            return kept
        if self.size is not None:
            return study.top(scores, round(self.size * int(study.wiring.allowed.sum())))
        kept = study.smallest(scores, self.kl, tell)
        if kept.sum() == study.wiring.allowed.sum():
            log.warning("no part of the edges keeps KL within %g nats by these scores: all are kept", self.kl)
        return kept

    def _tell_empty(self, study: LassoStudy) -> None:
        top = study.memory.tensors["top"]
        if self.alpha is not None and self.alpha >= top.max():
            log.warning(
                "the circuit is empty: alpha %g is beyond the largest lambda_max, %.3g", self.alpha, float(top.max())
            )
        else:
            log.warning("the circuit is empty: no chosen edges lead from the input to the output")

    def __post_init__(self) -> None:
        check(self)
        check_target(self)
        for what, value, known in (
            ("selection", self.select, Select),
            ("penalty", self.penalty, Penalty),
            ("rows", self.rows, Rows),
            ("targets", self.targets, Targets),
            ("sink", self.sink, Sink),
        ):
            if value not in get_args(known):
                raise UnknownName(what, value, get_args(known))
        require(self, "alpha", self.alpha is None or 0 < self.alpha < math.inf, "a penalty above 0")
        require(self, "channels", self.channels >= 0, "0 or more")
        require(self, "steps", self.steps is None or self.steps >= 1, "at least 1")
        require(self, "shrink", 0 < self.shrink < 1, "a share above 0 and below 1")
        require(self, "folds", 2 <= self.folds <= self.pairs, "at least 2, and no more than there are pairs")
        if self.size is not None and (self.select != "budget" or self.alpha is not None):
            raise UsageError(
                f"size is {self.size} and edges are chosen by {'alpha' if self.alpha is not None else self.select}",
                "give --size alone, or with --select budget",
            )
