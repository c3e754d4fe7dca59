"""Edge pruning: a learned mask over the edges of the model's graph.

After "Finding Transformer Circuits with Edge Pruning" (Bhaskar et al. 2024). Every edge gets a Hard Concrete gate; a
reader takes `gate * own + (1 - gate) * reference` from each writer before it. Departures, each an option: a budget for
KL in place of a target sparsity; a start from edge attribution; gates without noise; a threshold calibrated on
validation prompts, after which edges on no path from input to logits are dropped.
"""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, get_args

from subcircuit.circuit import Circuit
from subcircuit.edge_tables import node_paths, on_paths
from subcircuit.errors import UnknownName, UsageError
from subcircuit.gates import Relaxation
from subcircuit.methods._edge_search import EdgeSearch
from subcircuit.methods._edge_study import EdgeStudy, Table, Truth
from subcircuit.methods._ranked import check_target
from subcircuit.methods._study import check, require
from subcircuit.progress import Progress, silent
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs, Task

__all__ = ["EdgePruning"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EdgePruning:
    """Find the fewest edges that keep the output distribution within a budget of the full model's."""

    kinds: ClassVar[str] = "head,mlp"  # the nodes that edges join
    rank: ClassVar[str] = "signed"  # scores are probabilities

    kl: Annotated[float, "budget: KL(full || circuit) at the judged position, in nats, on validation prompts"] = 0.3
    size: Annotated[float | None, "in place of the budget: the share of the edges to keep, 0 to 1"] = None
    steps: Annotated[int, "optimisation steps"] = 150
    batch: Annotated[int, "prompt pairs in a step"] = 16
    lr: Annotated[float, "learning rate of the gates (Adam, no weight decay)"] = 0.3
    pairs: Annotated[int, "discovery prompt pairs"] = 192
    validation: Annotated[int, "validation prompt pairs, for the threshold"] = 64
    reference: Annotated[str, "what a closed edge carries: corrupt, mean, zero or resample"] = "corrupt"
    gates: Annotated[str, "relaxation of the gates: median, straight-through or sampled"] = "median"
    writers: Annotated[bool, "gates on writers besides: a closed one closes all edges that leave it"] = False
    warm_start: Annotated[int, "integration steps of the edge attribution the gates start from; 0 = all open"] = 4
    open: Annotated[float, "share of the edges that a warm start opens; 0 = as few as the budget takes"] = 0.0
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
        """The circuit for `kl` (or `size`), with its edges; an edge's score is its gate's probability of being open.

        Raises UnsupportedModel for an encoder, UsageError for layers that run twice, NumericalError when the loss is
        not finite, Interrupted when stopped by the keyboard while a `folder` keeps the state.
        """
        if subject.checkpointing:  # a layer's readers take in what writers of all layers left in the one forward pass
            raise UsageError(
                "edge pruning cannot run layers again for their gradients: readers need what all earlier writers add",
                "leave checkpointing out; a smaller --batch needs less memory",
            )
        study = EdgeStudy("edge-pruning", self, subject, task, pairs, folder)
        with study.resumable():
            search = EdgeSearch(self, study, progress)
            log_alpha = search.run()
            kept = self._hardened(study, log_alpha, search.relaxation.limit, progress)
            result = {"cache_bytes": search.reference.cached} | self._goal()
            scores = on_paths(study.wiring, search.relaxation.p_open(log_alpha))
            return study.circuit(scores, kept, node_paths(study.wiring, scores), **result)

    def _hardened(self, study: EdgeStudy, log_alpha: Table, limit: float, tell: Progress) -> Truth:
        """The gates made hard: of those that lie together at the lower limit, what promises most comes first."""
        if self.size is not None:
            return study.top(log_alpha, round(self.size * int(study.wiring.allowed.sum())))
        promise = -study.slopes((log_alpha > 0) & study.wiring.allowed)
        quantile = promise.flatten().argsort().argsort().view_as(promise) / promise.numel()
        ranks = log_alpha.where(log_alpha > 1e-3 - limit, log_alpha + quantile)
        kept = study.smallest(ranks, self.kl, tell)
        if kept.sum() == study.wiring.allowed.sum():
            log.warning("no part of the edges keeps KL within %g nats by these gates: all are kept", self.kl)
        return kept

    def _goal(self) -> dict[str, float]:
        return {"budget": self.kl} if self.size is None else {}

    def __post_init__(self) -> None:
        check(self)
        check_target(self)
        if self.gates not in get_args(Relaxation):
            raise UnknownName("gate relaxation", self.gates, get_args(Relaxation))
        require(self, "steps", self.steps >= 1, "at least 1")
        require(self, "lr", 0 < self.lr < math.inf, "a number above 0")
        require(self, "warm_start", self.warm_start >= 0, "0 or more")
        require(self, "open", 0 <= self.open <= 1, "a share from 0 to 1")
