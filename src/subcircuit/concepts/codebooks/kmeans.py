"""Mini-batch k-means on the directions of centred states: the baseline that a codebook has to beat."""

from dataclasses import asdict, dataclass
from typing import Annotated

import torch
from jaxtyping import Int
from torch import Tensor

from subcircuit.concepts.codebook import Codebook
from subcircuit.concepts.fitting import SAMPLE, draws, finished, sklearn_cluster
from subcircuit.concepts.vectors import Vectors
from subcircuit.progress import Progress, silent

__all__ = ["KMeans"]


@dataclass(frozen=True)
class KMeans:
    """scikit-learn's MiniBatchKMeans, fed batch by batch, so that states may lie on disk."""

    codes: Annotated[int, "codes, which are the concepts"] = 400
    spherical: Annotated[bool, "cluster directions instead of vectors"] = True
    steps: Annotated[int, "batches"] = 200
    batch: Annotated[int, "states in a batch; at least as many as codes are taken"] = 1024
    beyond: Annotated[float, "share of the states that are left unassigned, being the farthest from their code"] = 0.01
    seed: Annotated[int, "of the start and the batches"] = 0

    def fit(
        self, states: Vectors, upper: Vectors | None = None, *, progress: Progress = silent
    ) -> tuple[Codebook, Int[Tensor, " row"]]:
        """The codebook and the code of every state. Raises DataError, NumericalError, MissingExtra."""
        states.require(self.codes)
        mean, spread = states.moments()
        scale = 1.0 if self.spherical else 1 / max(spread, 1e-12)

        def prepared(rows: Tensor) -> Tensor:
            x = (states.take(rows) - mean) * scale
            return torch.nn.functional.normalize(x, dim=-1) if self.spherical else x

        some = torch.randperm(len(states), generator=torch.Generator().manual_seed(self.seed))
        cluster = sklearn_cluster()
        start, _ = cluster.kmeans_plusplus(
            prepared(some[: SAMPLE * self.codes]).numpy(), self.codes, random_state=self.seed
        )
        found = cluster.MiniBatchKMeans(self.codes, init=start, n_init=1, random_state=self.seed)
        batches = draws(len(states), max(self.batch, self.codes), self.steps, self.seed)
        for step, rows in enumerate(batches):
            found.partial_fit(prepared(rows).numpy())
            progress("k-means", step + 1, len(batches))
        codes = torch.from_numpy(found.cluster_centers_).float()
        if self.spherical:
            codes = torch.nn.functional.normalize(codes, dim=-1)
        return finished(
            states,
            codes,
            mean,
            scale,
            method="kmeans",
            settings=asdict(self),
            beyond=self.beyond,
            unit=self.spherical,
            said=lambda done, total: progress("assign", done, total),
        )
