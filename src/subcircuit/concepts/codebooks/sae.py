"""A TopK sparse autoencoder as a codebook: the concept of a state is its most active feature.

Trained by `subcircuit.features` with as many features as other methods have codes. Its directions are, as everyone's,
the centred means of the states that have the concept, so that what is removed compares.
"""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.concepts.codebook import Codebook
from subcircuit.concepts.fitting import finished
from subcircuit.concepts.vectors import Vectors
from subcircuit.features.harvest import Rows
from subcircuit.features.training import Training
from subcircuit.progress import Progress, silent

__all__ = ["SAE"]

CHUNK = 1 << 15  # states in memory at a time
HELD = 0.05  # share of the states that nothing is learned from


@dataclass(frozen=True)
class SAE:
    """The settings."""

    codes: Annotated[int, "features, which are the concepts"] = 400
    k: Annotated[int, "features on at a time"] = 16
    steps: Annotated[int, "batches"] = 1000
    batch: Annotated[int, "states in a batch"] = 1024
    rate: Annotated[float | None, "learning rate; left out: falls with the root of the features"] = None
    revive: Annotated[int, "steps of silence after which a feature starts again; 0 = never"] = 100
    beyond: Annotated[float, "share of the states that are left unassigned, being the least active"] = 0.01
    seed: Annotated[int, "of the weights and the batches"] = 0

    def fit(
        self, states: Vectors, upper: Vectors | None = None, *, progress: Progress = silent
    ) -> tuple[Codebook, Int[Tensor, " row"]]:
        """The codebook and the code of every state. Raises DataError, NumericalError, UsageError."""
        states.require(self.codes)
        mean, spread = states.moments()
        scale = 1 / max(spread, 1e-12)
        training = Training(
            self.codes,
            min(self.k, self.codes),
            steps=self.steps,
            batch=self.batch,
            lr=self.rate,
            revive=self.revive,
            seed=self.seed,
        )
        found = training.train(_Shuffled(states, mean, scale, self.seed), progress=progress).dictionary
        return finished(
            states,
            found.encoder.detach(),
            mean,
            scale,
            method="sae",
            settings=asdict(self),
            beyond=self.beyond,
            offsets=(found.encoder_bias - found.encoder @ found.decoder_bias).detach(),
            said=lambda done, total: progress("assign", done, total),
        )


class _Shuffled:
    """States as a source of rows, chunk by chunk, each epoch in an order of its own."""

    transcodes = False

    def __init__(self, states: Vectors, mean: Float[Tensor, " width"], scale: float, seed: int) -> None:
        self.states, self.mean, self.scale, self.seed = states, mean, scale, seed
        order = torch.randperm(len(states), generator=torch.Generator().manual_seed(seed))
        aside = max(1, round(HELD * len(states)))
        self._aside, self._rest = order[:aside], order[aside:]

    @property
    def chunks(self) -> int:
        return -(-len(self._rest) // CHUNK)

    def identity(self) -> dict[str, Any]:
        return {"states": len(self.states), "sum": float(self.mean.double().sum()), "order": self.seed}

    def chunk(self, epoch: int, number: int) -> Rows:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = self._rest[torch.randperm(len(self._rest), generator=generator)]
        return self._rows(order[number * CHUNK : (number + 1) * CHUNK])

    def held(self) -> Rows:
        return self._rows(self._aside[:CHUNK])

    def _rows(self, chosen: Tensor) -> Rows:
        x = (self.states.take(chosen) - self.mean) * self.scale
        return Rows(x, x)
