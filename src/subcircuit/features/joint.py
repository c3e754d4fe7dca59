"""Cross-layer transcoders while they learn: the features of all layers together, by Adam (Ameisen et al. 2025).

    loss = sum over m of ||y_m - y'_m||^2 / variance of y_m + sparsity * sum over features of tanh(c ||d|| a)
    y'_m = sum over l <= m of a_l W_dec_{l -> m} + b_dec_m,   a_l = jumprelu(W_enc_l x_l + b_enc_l)

`||d||` is the norm of all decoders of a feature together, so that it pays once however many layers it writes to. The
threshold learns by the straight-through estimator of Rajamanoharan et al. (2024). Inputs and outputs of each layer are
scaled to a variance of 1 a coordinate, and `transcoders` puts the scales into the weights, exactly. Departs from the
paper: a feature starts at what some row has of its layer, with a bias that turns it on at a tenth of the rows, and
silent features are resampled (Bricken et al. 2023), there at rows of which much is left unexplained.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.errors import NumericalError
from subcircuit.features.dictionary import Dictionary
from subcircuit.features.harvest import Rows
from subcircuit.features.hooks import HOOKS
from subcircuit.features.learning import MOMENTS, adam_state, restore_adam, scale, unit
from subcircuit.features.transcoders import Transcoders
from subcircuit.sites import Kind

__all__ = ["JointLearner"]

THRESHOLD = 0.03  # at the start; inputs have a variance of 1 a coordinate
BANDWIDTH = 1.0  # about a threshold, within which it learns
STEEP = 1.0  # c: what a feature adds costs in full from a length of about 2 on, in standard deviations of a coordinate
ON = 0.1  # share of the rows that turn a feature on at the start
DRAWN = 4096  # rows that the start is taken from


class JointLearner:
    """Learns from rows of all layers, (row, layer, width). Raises DataError for a layer that does not vary."""

    def __init__(self, rows: Rows, features: int, *, seed: int) -> None:
        layers = range(rows.x.shape[1])
        self.scale_in, self.scale_out = (
            torch.tensor([[scale(part[:, layer])] for layer in layers]).to(part) for part in (rows.x, rows.y)
        )
        quiet = torch.zeros(len(layers), features, dtype=torch.long, device=rows.x.device)
        self.quiet: Int[Tensor, "layer feature"] = quiet  # steps
        some = rows[slice(0, DRAWN)]
        self.weights = _start(some.x * self.scale_in, some.y * self.scale_out, features, seed)
        self.adam = torch.optim.Adam(self.weights.values())

    def step(self, rows: Rows, lr: float, sparsity: float) -> dict[str, float]:
        """Learn from a batch. Raises NumericalError when the loss is no number any more."""
        features = self._features(rows)
        left = rows.y * self.scale_out - self._decoded(features)
        unexplained = left.square().mean((0, 2))  # of a variance of 1: FVU, layer by layer
        norms = torch.stack([each.flatten(1).norm(dim=1) for each in self._decoders()])
        paid = torch.tanh(STEEP * norms * features).sum((1, 2)).mean()
        loss = unexplained.sum() + sparsity * paid
        if not loss.isfinite():
            raise NumericalError("the loss of the transcoders is not finite", "give a smaller --lr")
        self.adam.zero_grad()
        loss.backward()
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        on = features.detach() > 0
        self.quiet = (self.quiet + 1).masked_fill(on.any(0), 0)
        return {"FVU": float(unexplained.detach().mean()), "L0": float(on.sum(2).float().mean())}

    @torch.no_grad()
    def revive(self, rows: Rows, silent: int, generator: torch.Generator) -> int:
        """Start features again that no row of the last `silent` steps turned on; returns how many."""
        x = rows.x * self.scale_in
        left = rows.y * self.scale_out - self._decoded(self._features(rows))
        for layer, quiet in enumerate(self.quiet):
            dead = (quiet >= silent).nonzero()[:, 0]
            if len(dead):
                likely = left[:, layer:].square().sum((1, 2)).cpu() + 1e-12
                chosen = torch.multinomial(likely, len(dead), replacement=True, generator=generator).to(x.device)
                encoder, bias, strength = _turned_on(x[:, layer], chosen)
                decoders = left[chosen, layer:] / strength[:, None, None]
                self._replace("encoder", (layer, dead), encoder)
                self._replace("encoder_bias", (layer, dead), bias)
                self._replace("threshold", (layer, dead), math.log(THRESHOLD))
                self._replace(f"decoder_{layer}", (dead,), decoders)
        found = int((self.quiet >= silent).sum())
        self.quiet[self.quiet >= silent] = 0
        return found

    def transcoders(self, model: str = "") -> Transcoders:
        """The weights for activations as they are, of what each MLP branch takes in and adds."""
        weights = {name: weight.detach().cpu() for name, weight in self.weights.items()}
        inward, outward = self.scale_in.cpu(), self.scale_out.cpu()
        decoders = [weights[f"decoder_{layer}"] / outward[layer:] for layer in range(len(inward))]
        layers = [
            Dictionary(
                weights["encoder"][layer] * inward[layer],
                decoders[layer][:, 0],
                weights["encoder_bias"][layer].clone(),
                weights["decoder_bias"][layer] / outward[layer],
                "jumprelu",
                threshold=weights["threshold"][layer].exp(),
                model=model,
                reads=HOOKS[Kind.MLP_IN],
                writes=HOOKS[Kind.MLP],
                layer=layer,
            )
            for layer in range(len(inward))
        ]
        return Transcoders.of(layers, onward=[each[:, 1:] for each in decoders])

    def state(self) -> dict[str, Tensor]:
        """All that a step depends on besides its rows."""
        return adam_state(self.weights, self.adam) | {"quiet": self.quiet}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a state."""
        self.quiet.copy_(state["quiet"])
        restore_adam(self.weights, self.adam, state)

    def _decoders(self) -> list[Float[Tensor, "feature later width"]]:
        return [self.weights[f"decoder_{layer}"] for layer in range(len(self.quiet))]

    def _decoded(self, features: Float[Tensor, "row layer feature"]) -> Float[Tensor, "row layer width"]:
        bias = self.weights["decoder_bias"]
        found = bias.expand(len(features), *bias.shape).clone()
        for layer, decoders in enumerate(self._decoders()):
            found[:, layer:] += (features[:, layer] @ decoders.flatten(1)).view(len(features), *decoders.shape[1:])
        return found

    def _features(self, rows: Rows) -> Float[Tensor, "row layer feature"]:
        encoder, bias = self.weights["encoder"], self.weights["encoder_bias"]
        before = torch.einsum("blw,lfw->blf", rows.x * self.scale_in, encoder) + bias
        found: Tensor = _JumpReLU.apply(before, self.weights["threshold"].exp())  # type: ignore[no-untyped-call]
        return found

    def _replace(self, name: str, at: tuple[int | Tensor, ...], value: Tensor | float) -> None:
        """New weights for some features, which Adam knows nothing of yet."""
        weight = self.weights[name]
        weight[at] = value
        for moment in MOMENTS:
            if moment in self.adam.state[weight]:
                self.adam.state[weight][moment][at] = 0.0


class _JumpReLU(torch.autograd.Function):
    """What is above the threshold, as it is; the threshold hears of what is near it."""

    @staticmethod
    def forward(ctx: Any, before: Tensor, threshold: Tensor) -> Tensor:
        ctx.save_for_backward(before, threshold)
        return before * (before > threshold)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        before, threshold = ctx.saved_tensors
        near = (before - threshold).abs() < BANDWIDTH / 2
        return grad * (before > threshold), -(grad * near).sum(0) * threshold / BANDWIDTH


def _start(
    x: Float[Tensor, "row layer width"], y: Float[Tensor, "row layer width"], features: int, seed: int
) -> dict[str, Tensor]:
    """Encoders at what rows have of a layer, decoders at what the same rows have of the layers from there on."""
    generator, layers, mean = torch.Generator().manual_seed(seed), x.shape[1], y.mean(0)
    drawn = torch.randint(len(x), (layers, features), generator=generator).to(x.device)
    begun = [_turned_on(x[:, layer], rows) for layer, rows in enumerate(drawn)]
    bias = torch.stack([each[1] for each in begun])
    weights = {
        "encoder": torch.stack([each[0] for each in begun]),
        "encoder_bias": bias,
        "threshold": torch.full_like(bias, math.log(THRESHOLD)),  # its logarithm, so that it stays above 0
        "decoder_bias": mean,
    }
    most = ON * features * layers  # features on at a row, which together are to be no more than the row
    for layer, rows in enumerate(drawn):
        strength = begun[layer][2].clamp(min=1.0)
        weights[f"decoder_{layer}"] = (y[rows, layer:] - mean[layer:]) / (most * strength[:, None, None])
    return {name: weight.clone().requires_grad_() for name, weight in weights.items()}


def _turned_on(
    x: Float[Tensor, "row width"], chosen: Int[Tensor, " feature"]
) -> tuple[Float[Tensor, "feature width"], Float[Tensor, " feature"], Float[Tensor, " feature"]]:
    """Encoders and biases of features that chosen rows turn on, and few others; and how much they turn them on."""
    encoder = unit(x[chosen] - x.mean(0))
    before = x @ encoder.T
    bias = THRESHOLD - before.kthvalue(max(1, round((1 - ON) * len(x))), dim=0).values
    own = before[chosen, torch.arange(len(chosen), device=x.device)]
    return encoder, bias, (own + bias).clamp(min=THRESHOLD)
