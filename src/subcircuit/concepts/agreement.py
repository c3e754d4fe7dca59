"""How far judges agree: Krippendorff's alpha, and Kendall's W with ties and the value that chance gives it."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["chance_w", "kendall_w", "krippendorff_alpha", "ranks"]


def krippendorff_alpha(ratings: Float[Tensor, "judge item"]) -> float | None:
    """Interval alpha, 1 - observed over expected squared differences (Krippendorff 2011); NaN = not rated.

    None where no two judges rated one item, or all ratings are the same.
    """
    columns = [column[column.isfinite()].double() for column in ratings.T]
    columns = [column for column in columns if len(column) > 1]
    if not columns:
        return None
    values = torch.cat(columns)
    observed = sum(float(_differences(column)) / (len(column) - 1) for column in columns) / len(values)
    expected = float(_differences(values)) / (len(values) * (len(values) - 1))
    return None if expected == 0 else 1 - observed / expected


def ranks(values: Float[Tensor, "judge object"]) -> Float[Tensor, "judge object"]:
    """1 = the smallest; tied ones have the mean of their ranks."""
    smaller = (values[:, None] < values[:, :, None]).sum(-1)
    equal = (values[:, None] == values[:, :, None]).sum(-1)
    return smaller + (equal + 1) / 2


def kendall_w(values: Float[Tensor, "judge object"]) -> float | None:
    """Agreement on an order, 0 to 1, corrected for ties (Kendall 1948); None for judges who tie everything.

    W = 12 S / (m^2 (n^3 - n) - m T), S the squared deviations of rank sums, T the sum of t^3 - t over groups of ties.
    """
    most = _most(values)
    return float(_deviation(ranks(values.double()))) / most if most else None


def chance_w(values: Float[Tensor, "judge object"], draws: int = 10_000, seed: int = 0) -> float | None:
    """The mean W of judges with the same ties who order at random; without ties 1 / judges."""
    most, generator = _most(values), torch.Generator().manual_seed(seed)
    orders = torch.rand(draws, *values.shape, generator=generator).argsort(-1)
    drawn = ranks(values.double()).expand(draws, -1, -1).gather(-1, orders)
    return float(_deviation(drawn).mean()) / most if most else None


def _deviation(ranked: Float[Tensor, "*draw judge object"]) -> Float[Tensor, "*draw"]:
    """12 S."""
    sums = ranked.sum(-2)
    return 12 * (sums - sums.mean(-1, keepdim=True)).square().sum(-1)


def _most(values: Float[Tensor, "judge object"]) -> int:
    """What 12 S is when all judges agree."""
    judges, objects = values.shape
    tied = sum(int(size) ** 3 - int(size) for row in values for size in row.unique(return_counts=True)[1])
    return judges**2 * (objects**3 - objects) - judges * tied


def _differences(values: Float[Tensor, " rating"]) -> Float[Tensor, ""]:
    """Squared differences of all ordered pairs, summed."""
    return (values[:, None] - values).square().sum()
