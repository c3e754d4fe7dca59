"""Bootstrap intervals of any statistic of prompts."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.scores import Estimate

__all__ = ["GAP", "UNDEFINED", "average", "estimate", "interval", "resamples"]

GAP = 1e-6  # below this the full and the empty circuit do the same, and a ratio of gaps says nothing
UNDEFINED = "the full model and the empty circuit answer alike on these prompts, so their gap is zero"
ENDS = torch.tensor([0.025, 0.975], dtype=torch.float64)

Statistic = Callable[[Int[Tensor, "draw prompt"]], Float[Tensor, " draw"]]


def resamples(n: int, seed: int, draws: int = 2000) -> Int[Tensor, "draw prompt"]:
    """Rows of prompts, drawn with replacement."""
    return torch.randint(n, (draws, n), generator=torch.Generator().manual_seed(seed))


def interval(statistic: Statistic, n: int, seed: int, draws: int = 2000) -> Estimate | None:
    """A statistic of all prompts and its 95% percentile interval; None where it is not a number.

    `statistic` takes rows of prompt indices, one draw per row, and gives NaN or infinity where it is undefined.
    """
    whole = statistic(torch.arange(n)[None])
    return estimate(whole[0], statistic(resamples(n, seed, draws)))


def average(values: Float[Tensor, " prompt"], seed: int) -> Estimate | None:
    """The mean over prompts and its interval."""
    values = values.double()
    return interval(lambda rows: values[rows].mean(1), len(values), seed)


def estimate(value: Float[Tensor, ""], drawn: Float[Tensor, " draw"]) -> Estimate | None:
    """A value between the ends of its resampled ones; draws that are no numbers are left out."""
    drawn = drawn.double()
    drawn = drawn[drawn.isfinite()]
    if not value.isfinite() or not len(drawn):
        return None
    low, high = drawn.quantile(ENDS).tolist()
    return Estimate(mean=float(value), low=low, high=high)
