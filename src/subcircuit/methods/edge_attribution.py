"""Edge attribution patching: every edge's effect to first order, from a few forward and backward passes.

EAP (Syed et al. 2023, arXiv 2310.10348) takes gradients at the clean run; EAP-IG (Hanna et al. 2024, arXiv 2403.17806)
averages them over a path from the reference to the clean run. Departures: edges are at the model's own number of
key/value heads; points are midpoints of the path's intervals; positive = the edge helps.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, cast, get_args

from torch import Tensor

from subcircuit.circuit import Circuit
from subcircuit.edge_gradients import Path as GradientPath
from subcircuit.edge_gradients import edge_attribution, passes
from subcircuit.errors import UnknownName, UsageError
from subcircuit.gradients import Objective
from subcircuit.methods._edge_study import EdgeStudy
from subcircuit.methods._ranked import check_target
from subcircuit.methods._study import check, require
from subcircuit.progress import Progress, silent
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs, Task

__all__ = ["EdgeAttribution"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EdgeAttribution:
    """Score every edge by the gradient at its reader (EAP, EAP-IG), and keep the fewest that meet a budget."""

    kinds: ClassVar[str] = "head,mlp"  # the nodes that edges join

    kl: Annotated[float, "budget: KL(full || circuit) at the judged position, in nats, on validation prompts"] = 0.3
    size: Annotated[float | None, "in place of the budget: the share of the edges to keep, 0 to 1"] = None
    rank: Annotated[str, "by magnitude, or signed: what helps most first, what hurts last"] = "magnitude"
    path: Annotated[str, "gradients at: clean (EAP), inputs (EAP-IG), activations, or clean-corrupt"] = "inputs"
    steps: Annotated[int, "points on the path of inputs or activations"] = 5
    objective: Annotated[str, "logit-difference or kl"] = "logit-difference"
    pairs: Annotated[int, "discovery prompt pairs"] = 64
    validation: Annotated[int, "validation prompt pairs, for the size of the circuit"] = 64
    reference: Annotated[str, "what a closed edge carries: corrupt, mean, zero or resample"] = "corrupt"
    batch: Annotated[int, "prompts in a pass"] = 32
    seed: Annotated[int, "seed of the prompts"] = 0
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
        """The circuit of the edges with the largest attributions, as far as they lie on a path from input to logits.

        Raises UnsupportedModel for an encoder, NumericalError when a score is not finite, Interrupted when stopped
        while a `folder` keeps the state.
        """
        study = EdgeStudy("edge-attribution", self, subject, task, pairs, folder)
        with study.resumable():
            if not study.memory.tensors:
                study.keep({"edge": self._scores(study, progress)})
            scores = study.memory.tensors["edge"]
            ranks = scores.abs() if self.rank == "magnitude" else scores
            if self.size is not None:
                return study.circuit(scores, study.top(ranks, round(self.size * int(study.wiring.allowed.sum()))))
            kept = study.smallest(ranks, self.kl, progress)
            if kept.sum() == study.wiring.allowed.sum():
                log.warning("no part of the edges keeps KL within %g nats by these scores: all are kept", self.kl)
            return study.circuit(scores, kept, budget=self.kl)

    def __post_init__(self) -> None:
        check(self)
        check_target(self)
        for what, value, known in (("path", self.path, GradientPath), ("objective", self.objective, Objective)):
            if value not in get_args(known):
                raise UnknownName(what, value, get_args(known))
        require(self, "steps", self.steps >= 1, "at least 1")
        if self.objective == "kl" and self.path == "clean":
            raise UsageError(
                "the gradient of KL is 0 at the clean run, where this path takes it",
                "take --path inputs, or the objective logit-difference",
            )

    def _scores(self, study: EdgeStudy, tell: Progress) -> Tensor:
        path = cast(GradientPath, self.path)
        done, total = 0, passes(study.subject, path, self.steps) * len(study.pairs)

        def told(prompts: int) -> None:
            nonlocal done
            done = min(done + prompts, total)  # a batch that ran out of memory is counted again
            tell("attribution", done, total)

        return edge_attribution(
            study.subject,
            study.wiring,
            study.pairs,
            study.reference(study.pairs),
            objective=cast(Objective, self.objective),
            path=path,
            steps=self.steps,
            batch_size=self.batch,
            on_step=told,
        )
