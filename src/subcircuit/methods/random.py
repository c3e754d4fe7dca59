"""Random circuits: nodes by lot. What any other method has to beat, at the same size or within the same budget."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch

from subcircuit.circuit import Circuit
from subcircuit.methods._ranked import check_target, circuit
from subcircuit.methods._study import Study, check
from subcircuit.progress import Progress, silent
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs, Task

__all__ = ["Random"]


@dataclass(frozen=True)
class Random:
    """Keep nodes by lot: a share of each granularity, or as many as a budget takes."""

    kl: Annotated[float, "budget: KL(full || circuit) at the judged position, in nats, on validation prompts"] = 0.3
    size: Annotated[float | None, "in place of the budget: the share of each granularity to keep, 0 to 1"] = None
    kinds: Annotated[str, "granularities; also attn, block, neuron, channel, mlp_out, q, k, v, kv"] = "head,mlp"
    pairs: Annotated[int, "discovery prompt pairs; only a mean reference looks at them"] = 64
    validation: Annotated[int, "validation prompt pairs, for the size of the circuit"] = 64
    reference: Annotated[str, "what fills a closed node: corrupt, mean, zero or resample"] = "corrupt"
    batch: Annotated[int, "prompts in a pass"] = 32
    seed: Annotated[int, "seed of the lots and the prompts"] = 0
    cache_gb: Annotated[float, "reference activations kept in memory, at most; what does not fit is recomputed"] = 2.0

    rank = "signed"  # the highest lots first

    def find(
        self,
        subject: Subject,
        task: Task,
        pairs: Pairs | None = None,
        *,
        folder: Path | None = None,
        progress: Progress = silent,
    ) -> Circuit:
        """The circuit of the nodes with the highest lots, which are its scores: 0 to 1."""
        study = Study("random", self, subject, task, pairs, folder)
        with study.resumable():
            generator = torch.Generator().manual_seed(self.seed)
            lots = {site: torch.rand(subject.units(site.kind), generator=generator) for site in study.sites}
            study.keep({str(site): lot for site, lot in lots.items()})
            return circuit(study, lots, self, progress)

    def __post_init__(self) -> None:
        check(self)
        check_target(self)
