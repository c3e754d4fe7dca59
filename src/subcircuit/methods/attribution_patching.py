"""Attribution patching: every node's effect to first order, from a few forward and backward passes.

One step is attribution patching, gradient x (clean - reference) at the clean run (Nanda 2023); more steps are
integrated gradients (Sundararajan et al. 2017; over activations, as in Marks et al. 2024), here with all gates of the
chosen granularities on one path from the reference to the clean values.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast, get_args

from torch import Tensor

from subcircuit.circuit import Circuit
from subcircuit.errors import UnknownName, UsageError
from subcircuit.gradients import Objective, attribution, coarsen
from subcircuit.methods._ranked import check_target, circuit
from subcircuit.methods._study import Study, check, require
from subcircuit.progress import Progress, silent
from subcircuit.sites import Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs, Task

__all__ = ["AttributionPatching"]


@dataclass(frozen=True)
class AttributionPatching:
    """Score every node by its gradient, and keep those with the largest scores."""

    kl: Annotated[float, "budget: KL(full || circuit) at the judged position, in nats, on validation prompts"] = 0.3
    size: Annotated[float | None, "in place of the budget: the share of each granularity to keep, 0 to 1"] = None
    rank: Annotated[str, "by magnitude, or signed: what helps most first, what hurts last"] = "magnitude"
    kinds: Annotated[str, "granularities; mlp_out, q, k, v and kv may be added"] = "block,attn,mlp,head,channel,neuron"
    objective: Annotated[str, "logit-difference, or kl, which takes several steps"] = "logit-difference"
    steps: Annotated[int, "points on the path: 1 = attribution patching, more = integrated gradients"] = 1
    pairs: Annotated[int, "discovery prompt pairs"] = 64
    validation: Annotated[int, "validation prompt pairs, for the size of the circuit"] = 64
    reference: Annotated[str, "what fills a closed node: corrupt, mean, zero or resample"] = "corrupt"
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
        """The circuit of the nodes with the largest attributions, which are its scores.

        Raises NumericalError when a gradient is not finite, Interrupted when stopped while a `folder` keeps the state.
        """
        study = Study("attribution-patching", self, subject, task, pairs, folder)
        with study.resumable():
            if not study.memory.tensors:
                study.keep({str(site): score for site, score in self._scores(study, progress).items()})
            scores = {site: study.memory.tensors[str(site)] for site in study.sites}
            return circuit(study, scores, self, progress)

    def __post_init__(self) -> None:
        check(self)
        check_target(self)
        if self.objective not in get_args(Objective):
            raise UnknownName("objective", self.objective, get_args(Objective))
        require(self, "steps", self.steps >= 1, "at least 1")
        if self.objective == "kl" and self.steps == 1:
            raise UsageError(
                "the gradient of KL is 0 at the full model, where the one step is taken",
                "give more --steps, for example 5, or the objective logit-difference",
            )

    def _scores(self, study: Study, tell: Progress) -> dict[Site, Tensor]:
        done, total = 0, self.steps * len(study.pairs)

        def told(prompts: int) -> None:
            nonlocal done
            done = min(done + prompts, total)  # a batch that ran out of memory is counted again
            tell("attribution", done, total)

        scores = attribution(
            study.subject,
            study.pairs,
            study.reference(study.pairs),
            objective=cast(Objective, self.objective),
            steps=self.steps,
            batch_size=self.batch,
            on_step=told,
        )
        return coarsen(study.subject, scores, study.kinds)
