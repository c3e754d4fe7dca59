"""Relaxed gates: Hard Concrete (Louizos, Welling & Kingma 2018, eq. 10-12), and what holds a budget.

A dual variable holds what is measured, a projection holds a number of gates.

Departs from it: `log_alpha` is clamped, so that a closed gate can open again; and besides the sampled gate there are
its median, which needs far fewer steps because every step sees the same masks, and its straight-through limit, whose
forward value is the hard gate that will be reported.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.errors import UnknownName, UsageError

__all__ = ["Dual", "HardConcrete", "Relaxation", "capped_simplex"]

Relaxation = Literal["median", "straight-through", "sampled"]


@dataclass(frozen=True)
class HardConcrete:
    """A gate on [0, 1] with mass on both ends, for every `log_alpha`.

    "sampled": one noisy draw per gate, as published. "median": the same without noise. "straight-through": 1 where
    `log_alpha` > 0, else 0. The gradient of the last two is that of a logistic of temperature `slope`, which vanishes
    nowhere inside the clamp: what was closed by mistake comes back.
    """

    relaxation: Relaxation = "median"
    temperature: float = 2 / 3
    low: float = -0.1
    high: float = 1.1
    limit: float = 6.0  # |log_alpha| never passes it
    slope: float = 2.0

    def __post_init__(self) -> None:
        if self.relaxation not in get_args(Relaxation):
            raise UnknownName("gate relaxation", self.relaxation, get_args(Relaxation))

    def __call__(self, log_alpha: Float[Tensor, "*gate"], generator: torch.Generator) -> Float[Tensor, "*gate"]:
        """The gates of one step, differentiable in `log_alpha`."""
        if self.relaxation == "sampled":
            noise = torch.rand(log_alpha.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
            return self._stretched(log_alpha + noise.logit())
        if self.relaxation == "median":
            value = self._stretched(log_alpha.detach())
        else:
            value = (log_alpha > 0).to(log_alpha.dtype)
        wide = (log_alpha / self.slope).sigmoid()
        return value + (wide - wide.detach())

    def p_open(self, log_alpha: Float[Tensor, "*gate"]) -> Float[Tensor, "*gate"]:
        """Probability that the sampled gate is not exactly 0."""
        return (log_alpha - self.temperature * math.log(-self.low / self.high)).sigmoid()

    def _stretched(self, x: Tensor) -> Tensor:
        s = (x / self.temperature).sigmoid()
        return (s * (self.high - self.low) + self.low).clamp(0, 1)

    @torch.no_grad()
    def clamp_(self, log_alpha: Float[Tensor, "*gate"]) -> None:
        log_alpha.clamp_(-self.limit, self.limit)


@dataclass
class Dual:
    """The price of a broken budget: rises while the constrained quantity is above it, falls while below.

    With `excess = average / budget - 1`, at most 1, the average an exponential moving one: `log base += rate * excess`,
    and `price = base * exp(gain * excess)`. The second answers at once, so that the first does not swing.
    """

    budget: float
    base: float = 1.0
    rate: float = 0.1
    gain: float = 1.0
    memory: float = 0.7  # weight of the past in the moving average
    average: float | None = None
    low: float = 1e-4
    high: float = 1e4

    def update(self, value: float) -> float:
        """Take one observation and return the new price."""
        old = value if self.average is None else self.average
        self.average = self.memory * old + (1 - self.memory) * value
        self.base = min(self.high, max(self.low, self.base * math.exp(self.rate * self._excess)))
        return self.price

    @property
    def price(self) -> float:
        """What breaking the budget costs now."""
        return self.base * math.exp(self.gain * self._excess)

    @property
    def _excess(self) -> float:
        return 0.0 if self.average is None else max(-1.0, min(1.0, self.average / self.budget - 1))


def capped_simplex(
    x: Float[Tensor, " gate"], total: float, costs: Float[Tensor, " gate"] | None = None
) -> Float[Tensor, " gate"]:
    """The nearest point to `x` of {m in [0, 1]^N: sum m = total}: `clip(x - t, 0, 1)`, its `t` found by bisection.

    Wang & Lu 2015, arXiv 1503.01002. With costs c > 0 the sum is c'm and the point `clip(x - t c, 0, 1)`. Raises
    UsageError for a total that no such point has.
    """
    cost = torch.ones(len(x), dtype=torch.float64) if costs is None else costs.double()
    most = float(cost.sum())
    if not 0 <= total <= most * (1 + 1e-9):
        raise UsageError(f"{len(x)} gates between 0 and 1 cannot sum to {total:g}", f"give a total of 0 to {most:g}")
    exact = x.double()
    low, high = ((exact - 1) / cost).min(), (exact / cost).max()  # all gates at 1, all at 0
    for _ in range(60):
        middle = (low + high) / 2
        above = bool((cost * (exact - middle * cost).clamp(0, 1)).sum() > total)
        low, high = (middle, high) if above else (low, middle)
    return (exact - high * cost).clamp(0, 1).to(x.dtype)
