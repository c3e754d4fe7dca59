"""VQLC: a codebook of latent concepts on the frozen states of one layer (Yu et al. 2026, arXiv 2602.02726).

States pass a residual encoder, go to a code, and a decoder makes the states of the codes again:

    loss = mean |D(q) - u|^2 + beta mean |z - sg(q)|^2

The codes follow their members by moving averages. Departs from the paper, whose code is not public: states are centred
and of unit variance, the temperature is relative to distances and falls to 0, dead codes begin anew; and so that the
cost stays near that of k-means, encoder and decoder are the identity and something of low rank, and a part of each
batch teaches them.
"""

from dataclasses import asdict, dataclass
from typing import Annotated

import torch
from jaxtyping import Int
from torch import Tensor

from subcircuit.concepts.codebook import Codebook
from subcircuit.concepts.fitting import SAMPLE, draws, finished, spherical_start
from subcircuit.concepts.quantiser import Quantiser
from subcircuit.concepts.residual import LowRank, ResidualEncoder, straight_through
from subcircuit.concepts.vectors import Vectors
from subcircuit.progress import Progress, silent

__all__ = ["VQLC"]


@dataclass(frozen=True)
class VQLC:
    """The settings."""

    codes: Annotated[int, "codes, which are the concepts"] = 400
    steps: Annotated[int, "batches"] = 200
    batch: Annotated[int, "states in a batch"] = 1024
    top: Annotated[int, "nearest codes that one is drawn from in training"] = 5
    temperature: Annotated[float, "of the draw at the start, over the median squared distance; falls to 0"] = 0.1
    decay: Annotated[float, "of the moving averages"] = 0.95
    beta: Annotated[float, "weight of the distance between states and codes"] = 0.1
    rank: Annotated[int, "of what encoder and decoder add to the identity"] = 64
    taught: Annotated[int, "states of a batch that encoder and decoder learn from"] = 256
    rate: Annotated[float, "learning rate of encoder and decoder"] = 1e-3
    revive: Annotated[float, "share of an even code's members below which a code begins anew"] = 0.05
    beyond: Annotated[float, "share of the states that are left unassigned, being the farthest from their code"] = 0.01
    seed: Annotated[int, "of the start, the batches and the draws"] = 0

    def fit(
        self, states: Vectors, upper: Vectors | None = None, *, progress: Progress = silent
    ) -> tuple[Codebook, Int[Tensor, " row"]]:
        """The codebook and the code of every state. Raises DataError, NumericalError, MissingExtra."""
        states.require(self.codes)
        mean, spread = states.moments()
        scale = 1 / max(spread, 1e-12)
        generator = torch.Generator().manual_seed(self.seed)
        some = torch.randperm(len(states), generator=generator)[: SAMPLE * self.codes]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            encoder, decoder = ResidualEncoder(states.width, self.rank), LowRank(states.width, self.rank)
        with torch.no_grad():
            start = spherical_start(encoder((states.take(some) - mean) * scale), self.codes, self.seed)
        quantiser = Quantiser(start, decay=self.decay, least=self.revive)
        optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=self.rate)
        batches = draws(len(states), self.batch, self.steps, self.seed)
        for step, rows in enumerate(batches):
            u = (states.take(rows) - mean) * scale
            left = 1 - step / len(batches)
            with torch.no_grad():
                z = encoder(u)
                temperature = self.temperature * left
                mine = quantiser.assign(z, top=self.top, temperature=temperature, generator=generator)
                quantiser.update(z, mine)
            few = slice(0, self.taught)
            loss = self._loss(u[few], quantiser.codes[mine[few]], encoder, decoder)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if left > 0.25:  # a code that begins anew needs time to find its members
                quantiser.revive(z, generator)
            progress("vqlc", step + 1, len(batches), loss=float(loss.detach()))
        return finished(
            states,
            quantiser.codes,
            mean,
            scale,
            method="vqlc",
            settings=asdict(self),
            beyond=self.beyond,
            encoder=encoder.frozen(),
            said=lambda done, total: progress("assign", done, total),
        )

    def _loss(self, u: Tensor, codes: Tensor, encoder: ResidualEncoder, decoder: LowRank) -> Tensor:
        z = encoder(u)
        made: Tensor = decoder(straight_through(z, codes))
        loss: Tensor = (made - u).square().mean() + self.beta * (z - codes).square().mean()
        return loss
