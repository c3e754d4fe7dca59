"""Norms with their denominator held where one prompt put it: linear in their input, and exact at that prompt."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subcircuit.errors import UnsupportedModel

__all__ = ["FrozenNorm"]

CLOSE = {torch.float32: 1e-4, torch.float64: 1e-9}  # of a norm's largest output; half precision leaves 2e-2


@dataclass(frozen=True)
class FrozenNorm:
    """`y + gain * (x' - x)`, where `x` was the norm's input and `y` its output; of a LayerNorm centred differences.

    At `x' = x` that is `y` to the last bit, whatever rounding the norm itself has.
    """

    x: Float[Tensor, "pos width"]
    y: Float[Tensor, "pos width"]
    gain: Float[Tensor, "pos width"]
    centred: bool

    @classmethod
    def of(cls, norm: nn.Module, x: Float[Tensor, "pos width"], y: Float[Tensor, "pos width"]) -> "FrozenNorm":
        """Of a module and one input with its output. Raises UnsupportedModel when it is not a norm known here.

        Neither its epsilon nor the scale of its weights need be known: one factor per token fits the output.
        """
        centred = isinstance(norm, nn.LayerNorm)
        one = torch.ones_like(x[:1])
        if isinstance(norm, nn.LayerNorm):
            weights = one if norm.weight is None else norm.weight[None]
            offset = 0 * one if norm.bias is None else norm.bias[None]
        else:
            weights, offset = norm.forward(one), 0 * one
        inner = x - x.mean(-1, keepdim=True) if centred else x
        base, out = (weights * inner).float(), (y - offset).float()
        factor = (out * base).sum(-1, keepdim=True) / base.square().sum(-1, keepdim=True).clamp(min=1e-30)
        if not torch.allclose(factor * base, out, rtol=0, atol=CLOSE.get(x.dtype, 2e-2) * float(out.abs().max())):
            raise UnsupportedModel(
                f"{type(norm).__name__} is not linear once its denominator is held",
                "known: LayerNorm, and norms that scale each coordinate of what they divide, as RMSNorm does",
            )
        return cls(x, y, (factor * weights).to(x.dtype), centred)

    def __call__(self, x: Float[Tensor, "*batch pos width"]) -> Float[Tensor, "*batch pos width"]:
        change = x - self.x
        return self.y + self.gain * (change - change.mean(-1, keepdim=True) if self.centred else change)
