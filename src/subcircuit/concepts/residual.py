"""The adaptive residual encoder: a learnt share of a layer of its own beside the state itself.

Departs from the papers in that the layer is the identity and something of low rank, which keeps it cheaper than the
search for the nearest code; of a rank as large as the width it is any matrix.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subcircuit.concepts.codebook import Encoder

__all__ = ["LowRank", "ResidualEncoder", "straight_through"]

OPENING = 0.2  # before the sigmoid: the layer begins with a share of 0.275


class LowRank(nn.Module):
    """`u + B A u + b`; begins as the identity."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, min(rank, width), bias=False), nn.Linear(min(rank, width), width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, u: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        found: Tensor = u + self.up(self.down(u))
        return found


class ResidualEncoder(nn.Module):
    """`(1 - m) u + m LayerNorm(u + B A u + b)`, `m = sigmoid(a) / 2`."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.opening = nn.Parameter(torch.tensor(OPENING))
        self.linear, self.norm = LowRank(width, rank), nn.LayerNorm(width)

    def forward(self, u: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        mix = self.opening.sigmoid() / 2
        found: Tensor = (1 - mix) * u + mix * self.norm(self.linear(u))
        return found

    def frozen(self) -> Encoder:
        """As it is now, for a codebook."""
        inner = self.linear
        weights = (inner.down.weight, inner.up.weight, inner.up.bias, self.norm.weight, self.norm.bias)
        return Encoder((self.opening.sigmoid() / 2).detach(), *(weight.detach().clone() for weight in weights))


def straight_through(z: Float[Tensor, "... width"], codes: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
    """The codes, with the gradient of what they stand for."""
    return z + (codes - z).detach()
