"""Hierarchical clustering by Ward's criterion, as latent concept analysis has it. Memory grows with states squared.

Departs from it: beyond `rows` states a sample is clustered, and every state then goes to the nearest cluster mean.
"""

import logging
from dataclasses import asdict, dataclass
from typing import Annotated

import torch
from jaxtyping import Int
from torch import Tensor

from subcircuit.concepts.codebook import Codebook
from subcircuit.concepts.fitting import finished, sklearn_cluster
from subcircuit.concepts.vectors import Vectors
from subcircuit.progress import Progress, silent

__all__ = ["Ward"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ward:
    """scikit-learn's AgglomerativeClustering."""

    codes: Annotated[int, "codes, which are the concepts"] = 400
    rows: Annotated[int, "states that are clustered; n of them take 4 n^2 bytes"] = 10_000
    beyond: Annotated[float, "share of the states that are left unassigned, being the farthest from their code"] = 0.01
    seed: Annotated[int, "of the sample"] = 0

    def fit(
        self, states: Vectors, upper: Vectors | None = None, *, progress: Progress = silent
    ) -> tuple[Codebook, Int[Tensor, " row"]]:
        """The codebook and the code of every state. Raises DataError, NumericalError, MissingExtra."""
        states.require(self.codes)
        mean, spread = states.moments()
        scale = 1 / max(spread, 1e-12)
        chosen = torch.randperm(len(states), generator=torch.Generator().manual_seed(self.seed))[: self.rows]
        if len(chosen) < len(states):
            log.warning("Ward's clustering is of %d of %d states", len(chosen), len(states))
        x = (states.take(chosen) - mean) * scale
        progress("ward", 0, 1)
        labels = sklearn_cluster().AgglomerativeClustering(self.codes, linkage="ward").fit(x.numpy()).labels_
        progress("ward", 1, 1)
        mine = torch.from_numpy(labels)
        sums = torch.zeros(self.codes, states.width).index_add_(0, mine, x)
        codes = sums / torch.bincount(mine, minlength=self.codes)[:, None]
        return finished(
            states,
            codes,
            mean,
            scale,
            method="ward",
            settings=asdict(self),
            beyond=self.beyond,
            said=lambda done, total: progress("assign", done, total),
        )
