"""CLVQ-VAE: one codebook between a lower and a higher layer (Garg et al. 2025, arXiv 2506.20040).

The lower states of a text pass a residual encoder and go to codes; a transformer decoder makes the higher states of the
sequence of codes:

    loss = mean |D(q, q) - u_high|^2 + beta mean |z - sg(q)|^2

Departs from the paper: the decoder's memory is the quantised sequence, so that nothing passes beside the codes, and
words have positions; states are centred and scaled, the temperature is relative to distances, dead codes begin anew.
The preset `paper` undoes these but the centring, without which nothing else here compares.
"""

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from subcircuit.concepts.codebook import Codebook
from subcircuit.concepts.fitting import SAMPLE, draws, finished, spherical_start
from subcircuit.concepts.quantiser import Quantiser
from subcircuit.concepts.residual import ResidualEncoder, straight_through
from subcircuit.concepts.vectors import Vectors
from subcircuit.errors import UsageError
from subcircuit.progress import Progress, silent

__all__ = ["CLVQ"]


@dataclass(frozen=True)
class CLVQ:
    """The settings."""

    codes: Annotated[int, "codes, which are the concepts"] = 400
    steps: Annotated[int, "batches"] = 200
    batch: Annotated[int, "texts in a batch"] = 16
    top: Annotated[int, "nearest codes that one is drawn from in training"] = 5
    temperature: Annotated[float, "of the draw at the start; falls to 0 where it is relative"] = 0.1
    relative: Annotated[bool, "the temperature is relative to the median squared distance"] = True
    decay: Annotated[float, "of the moving averages"] = 0.95
    beta: Annotated[float, "weight of the distance between states and codes"] = 0.1
    rate: Annotated[float, "learning rate of encoder and decoder"] = 3e-4
    revive: Annotated[float, "share of an even code's members below which a code begins anew; 0 = never"] = 0.05
    rank: Annotated[int, "of what the encoder adds to the identity"] = 64
    layers: Annotated[int, "of the decoder"] = 1
    heads: Annotated[int, "of each; taken down to what divides the width"] = 8
    hidden: Annotated[int, "units of its feed-forward layers"] = 512
    dropout: Annotated[float, "in the decoder"] = 0.1
    bypass: Annotated[bool, "the decoder's memory is the encoder's output, past the codes"] = False
    positions: Annotated[bool, "tell the decoder where in its text a word stands"] = True
    beyond: Annotated[float, "share of the states that are left unassigned, being the farthest from their code"] = 0.01
    seed: Annotated[int, "of the start, the batches and the draws"] = 0

    presets: ClassVar[tuple[str, ...]] = ("paper",)

    @classmethod
    def paper(cls, **settings: Any) -> "CLVQ":
        """The published decoder of six layers that sees past the codes, temperature 1 as it is, no codes begun anew."""
        published: dict[str, Any] = {
            "rank": 1 << 30,  # any matrix
            "layers": 6,
            "hidden": 2048,
            "bypass": True,
            "positions": False,
            "relative": False,
            "temperature": 1.0,
            "revive": 0.0,
            "decay": 0.99,
            "rate": 5e-3,
            "batch": 128,
        }
        return cls(**{**published, **settings})

    def fit(
        self, states: Vectors, upper: Vectors | None = None, *, progress: Progress = silent
    ) -> tuple[Codebook, Int[Tensor, " row"]]:
        """The codebook and the code of every state. Raises UsageError without states of a higher layer; as others."""
        if upper is None:
            raise UsageError("clvq predicts a higher layer from the codes, and none was given", "give --upper LAYER")
        states.require(self.codes)
        (mean, spread), (high_mean, high_spread) = states.moments(), upper.moments()
        scale, high_scale = 1 / max(spread, 1e-12), 1 / max(high_spread, 1e-12)
        generator = torch.Generator().manual_seed(self.seed)
        some = torch.randperm(len(states), generator=generator)[: SAMPLE * self.codes]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)  # of the weights and the dropout
            encoder, decoder = ResidualEncoder(states.width, self.rank), _Decoder(self, states.width)
            with torch.no_grad():
                start = spherical_start(encoder((states.take(some) - mean) * scale), self.codes, self.seed)
            quantiser = Quantiser(start, self.decay, write_back=not self.relative, least=self.revive)
            optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=self.rate)
            spans = _spans(states.texts)
            batches = draws(len(spans), self.batch, self.steps, self.seed)
            for step, chosen in enumerate(batches):
                rows, mask, places = _padded([spans[number] for number in chosen.tolist()], states.places)
                low = (states.take(rows) - mean) * scale
                high = (upper.take(rows) - high_mean) * high_scale
                left = 1 - step / len(batches)
                z = encoder(low)
                temperature = self.temperature * (left if self.relative else 1.0)
                codes = self._quantised(z.detach(), quantiser, temperature, generator)
                loss = (decoder(straight_through(z, codes), z, mask, places) - high).square().mean()
                loss = loss + self.beta * (z - codes).square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                if left > 0.25 and self.revive:
                    quantiser.revive(z.detach(), generator)
                progress("clvq", step + 1, len(batches), loss=float(loss.detach()))
        return finished(
            states,
            quantiser.codes,
            mean,
            scale,
            method="clvq",
            settings=asdict(self),
            beyond=self.beyond,
            encoder=encoder.frozen(),
            said=lambda done, total: progress("assign", done, total),
        )

    def _quantised(
        self, z: Tensor, quantiser: Quantiser, temperature: float, generator: torch.Generator
    ) -> Float[Tensor, "row width"]:
        mine = quantiser.assign(z, top=self.top, temperature=temperature, scaled=self.relative, generator=generator)
        quantiser.update(z, mine)
        return quantiser.codes[mine]


class _Decoder(nn.Module):
    """A transformer decoder over the words of each text. It is given and gives rows; padding is its own affair."""

    def __init__(self, settings: CLVQ, width: int) -> None:
        super().__init__()
        heads = math.gcd(settings.heads, width)
        layer = nn.TransformerDecoderLayer(width, heads, settings.hidden, settings.dropout, batch_first=True)
        self.stack = nn.TransformerDecoder(layer, settings.layers)
        self.out = nn.Linear(width, width)
        self.bypass, self.positions = settings.bypass, settings.positions

    def forward(
        self,
        quantised: Float[Tensor, "row width"],
        z: Float[Tensor, "row width"],
        mask: Bool[Tensor, "text word"],
        places: Int[Tensor, " row"],
    ) -> Float[Tensor, "row width"]:
        if self.positions:
            quantised = quantised + _waves(places, quantised.shape[1])
        target = _spread(quantised, mask)
        memory = _spread(z, mask) if self.bypass else target
        found = self.stack(target, memory, tgt_key_padding_mask=~mask, memory_key_padding_mask=~mask)
        rows: Tensor = self.out(found[mask])
        return rows


def _spans(texts: np.ndarray) -> list[tuple[int, int]]:
    """The rows of each text, which follow each other."""
    starts = np.flatnonzero(np.diff(texts, prepend=texts[0] - 1))
    return list(zip(starts.tolist(), [*starts[1:].tolist(), len(texts)], strict=True))


def _padded(spans: list[tuple[int, int]], places: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """The rows of these texts one after another, where they go in a padded batch, and their places."""
    rows = torch.cat([torch.arange(start, end) for start, end in spans])
    lengths = torch.tensor([end - start for start, end in spans])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return rows, mask, torch.from_numpy(places[rows.numpy()])


def _spread(rows: Float[Tensor, "row width"], mask: Bool[Tensor, "text word"]) -> Float[Tensor, "text word width"]:
    return torch.zeros(*mask.shape, rows.shape[1], dtype=rows.dtype).masked_scatter(mask[:, :, None], rows)


def _waves(places: Int[Tensor, " row"], width: int) -> Float[Tensor, "row width"]:
    """Sines and cosines of places (Vaswani et al. 2017)."""
    pace = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = places[:, None].float() * pace
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]
