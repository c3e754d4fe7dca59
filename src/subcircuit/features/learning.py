"""A TopK dictionary while it learns: its weights, a step of Adam, and features that went silent brought back.

    loss = ||y - y'||^2 / variance of y,   y' = topk(relu(W_enc (x - b_dec) + b_enc)) W_dec + b_dec

The decoder's rows keep a norm of 1 (Gao et al. 2024); its bias starts at the mean of y. Inputs and outputs are scaled
to a variance of 1 a coordinate, and `dictionary` puts the scale into the weights, exactly: ReLU and topk are
homogeneous. A silent feature is resampled (Bricken et al. 2023): it starts again at what the dictionary leaves
unexplained of a row, rows with more left being likelier. Departs from it: the encoder is as long as it takes to turn
the feature on at that row, since with topk a short one would never be seen.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag, linear

from subcircuit.errors import DataError, NumericalError
from subcircuit.features.dictionary import Dictionary
from subcircuit.features.harvest import Rows

__all__ = ["MOMENTS", "Learner", "adam_state", "restore_adam", "scale", "unit"]

WEIGHTS = ("encoder", "decoder", "encoder_bias", "decoder_bias")
MOMENTS = ("exp_avg", "exp_avg_sq")


class Learner:
    """Raises DataError for rows that do not vary, or more features kept than there are."""

    def __init__(self, rows: Rows, features: int, k: int, *, transcodes: bool, seed: int) -> None:
        if not 0 < k <= features:
            raise DataError(f"k is {k}, of {features} features", "give k from 1 to their number")
        self.k, self.centred = k, not transcodes
        self.scale_in, self.scale_out = (scale(part) for part in (rows.x, rows.y))
        x, y = rows.x * self.scale_in, rows.y * self.scale_out
        self.variance = float(y.var(0, unbiased=False).sum())
        self.quiet: Int[Tensor, " feature"] = torch.zeros(features, dtype=torch.long, device=x.device)  # steps
        generator = torch.Generator().manual_seed(seed)
        decoder = encoder = unit(torch.randn(features, y.shape[1], generator=generator))
        bias = torch.zeros(features)
        if transcodes:  # directions that go together: what some row has of each
            drawn = torch.randint(len(x), (features,), generator=generator).to(x.device)
            encoder, decoder = unit(x[drawn] - x.mean(0)), unit(y[drawn] - y.mean(0))
            bias = -linear(x.mean(0), encoder)
        starts = (encoder, decoder, bias, y.mean(0))
        self.encoder, self.decoder, self.encoder_bias, self.decoder_bias = (
            start.to(x).clone().requires_grad_() for start in starts
        )
        self.adam = torch.optim.Adam([self.weight(name) for name in WEIGHTS])

    def weight(self, name: str) -> Tensor:
        found: Tensor = getattr(self, name)
        return found

    def step(self, rows: Rows, lr: float) -> dict[str, float]:
        """Learn from a batch. Raises NumericalError when the loss is no number any more."""
        y = rows.y * self.scale_out
        values, at = self._features(rows)
        left = y - self._decoded(values, at)
        loss = left.square().sum(1).mean() / self.variance
        if not loss.isfinite():
            raise NumericalError("the loss of the dictionary is not finite", "give a smaller --lr")
        self.adam.zero_grad()
        loss.backward()
        with torch.no_grad():
            grad = self.decoder.grad
            assert grad is not None
            grad -= (grad * self.decoder).sum(1, keepdim=True) * self.decoder  # what would only change the norm
            for group in self.adam.param_groups:
                group["lr"] = lr
            self.adam.step()
            self.decoder.copy_(unit(self.decoder))
            self.quiet += 1
            self.quiet[at[values > 0]] = 0
        return {"FVU": float(loss.detach()), "L0": float((values > 0).sum(1).float().mean())}

    @torch.no_grad()
    def revive(self, rows: Rows, silent: int, generator: torch.Generator) -> int:
        """Start features again that no row of the last `silent` steps turned on; returns how many."""
        dead = (self.quiet >= silent).nonzero()[:, 0][: len(rows)]
        if not len(dead):
            return 0
        x, y = rows.x * self.scale_in, rows.y * self.scale_out
        values, at = self._features(rows)
        left = y - self._decoded(values, at)
        chosen = torch.multinomial(left.square().sum(1).cpu() + 1e-12, len(dead), generator=generator).to(x.device)
        source = left if self.centred else x - x.mean(0)
        self.decoder[dead] = unit(left[chosen])
        self.encoder[dead], self.encoder_bias[dead] = unit(source[chosen]), 0.0
        before = linear(
            x[chosen] - self.decoder_bias if self.centred else source[chosen], self.encoder[dead]
        ).diagonal()
        wanted = torch.maximum(left[chosen].norm(dim=1), 1.1 * values[chosen, -1])
        self.encoder[dead] *= (wanted / before.clamp(min=1e-3 * wanted))[:, None].clamp(max=4.0)
        if not self.centred:
            self.encoder_bias[dead] = -linear(x.mean(0), self.encoder[dead])
        for name in WEIGHTS[:3]:
            for moment in MOMENTS:
                if moment in self.adam.state[self.weight(name)]:
                    self.adam.state[self.weight(name)][moment][dead] = 0.0
        self.quiet[dead] = 0
        return len(dead)

    def dictionary(self, **about: Any) -> Dictionary:
        """The weights for activations as they are."""
        encoder, decoder, encoder_bias, decoder_bias = (self.weight(name).detach().cpu().clone() for name in WEIGHTS)
        return Dictionary(
            encoder * (self.scale_in / self.scale_out),
            decoder,
            encoder_bias / self.scale_out,
            decoder_bias / self.scale_out,
            "topk",
            self.k,
            centred=self.centred,
            **about,
        )

    def state(self) -> dict[str, Tensor]:
        """All that a step depends on besides its rows."""
        return adam_state(self._weights(), self.adam) | {"quiet": self.quiet}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a state."""
        self.quiet.copy_(state["quiet"])
        restore_adam(self._weights(), self.adam, state)

    def _weights(self) -> dict[str, Tensor]:
        return {name: self.weight(name) for name in WEIGHTS}

    def _features(self, rows: Rows) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
        x = rows.x * self.scale_in
        before = linear(x - self.decoder_bias if self.centred else x, self.encoder, self.encoder_bias)
        best = before.relu().topk(self.k, dim=1)
        return best.values, best.indices

    def _decoded(self, values: Float[Tensor, "row k"], at: Int[Tensor, "row k"]) -> Float[Tensor, "row width_out"]:
        return embedding_bag(at, self.decoder, per_sample_weights=values, mode="sum") + self.decoder_bias


def adam_state(weights: Mapping[str, Tensor], adam: torch.optim.Adam) -> dict[str, Tensor]:
    """The weights, and what Adam keeps of each."""
    found = {name: weight.detach() for name, weight in weights.items()}
    for name, weight in weights.items():
        found |= {f"{part} {name}": value for part, value in adam.state[weight].items()}
    return found


@torch.no_grad()
def restore_adam(weights: Mapping[str, Tensor], adam: torch.optim.Adam, state: Mapping[str, Tensor]) -> None:
    """Put back what `adam_state` took."""
    for name, weight in weights.items():
        weight.copy_(state[name])
        adam.state[weight] = {
            part: state[f"{part} {name}"].to("cpu" if part == "step" else weight.device)
            for part in ("step", *MOMENTS)
            if f"{part} {name}" in state
        }


def scale(rows: Float[Tensor, "row width"]) -> float:
    """What gives rows a variance of 1 a coordinate. Raises DataError where they do not vary."""
    variance = float(rows.var(0, unbiased=False).mean())
    if not variance > 1e-12 * float(rows.square().mean()):
        raise DataError("the activations do not vary: there is nothing to learn", "give other texts or another site")
    return 1 / math.sqrt(variance)


def unit(rows: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
    """Rows of norm 1; a row of zeros stays."""
    return torch.nn.functional.normalize(rows, dim=1)
