"""Observations as Gram matrices: added batch by batch, kept fold by fold, so that what they cost knows no rows.

With `A = X'X / n`, `B = X'Y / n` and the power of `Y` a regression of Y on X needs neither X nor Y again; leaving out a
fold is a subtraction. Sums are in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.errors import NumericalError

__all__ = ["FAINT", "Grams", "Normal"]

FAINT = 1e-6  # of the largest component's variance: below it a component is rounding


@dataclass(frozen=True)
class Normal:
    """What a regression needs to know of its data, per row: sources' Gram matrix, their products with the targets."""

    gram: Float[Tensor, "source source"]
    cross: Float[Tensor, "source target"]
    power: Float[Tensor, " target"]  # mean square of each target column
    rows: int

    def columns(self, first: int, last: int) -> "Normal":
        """The same for some of the target columns."""
        return Normal(self.gram, self.cross[:, first:last], self.power[first:last], self.rows)


class Grams:
    """Running sums over rows, fold by fold.

    Args:
        centre: take the mean off every column, as an intercept would.
    """

    def __init__(self, sources: int, targets: int, *, folds: int = 1, centre: bool = False) -> None:
        self.sources, self.targets, self.centre = sources, targets, centre
        width = sources + targets
        self.products = torch.zeros(folds, sources, width, dtype=torch.float64)  # X'X and X'Y, side by side
        self.squares = torch.zeros(folds, targets, dtype=torch.float64)
        self.sums = torch.zeros(folds, width, dtype=torch.float64)
        self.counts = [0] * folds

    def __len__(self) -> int:
        """How many folds there are."""
        return len(self.counts)

    @property
    def rows(self) -> int:
        return sum(self.counts)

    def add(
        self, x: Float[Tensor, "row source"], y: Float[Tensor, "row target"], folds: Int[Tensor, " row"] | int = 0
    ) -> None:
        """Count rows in, each to its fold. Raises NumericalError, naming the first column, for a NaN or infinity."""
        both = torch.cat([x, y], 1).double()
        if isinstance(folds, int):
            return self._add(both, folds)
        for fold in folds.unique().tolist():
            self._add(both[folds == fold], fold)

    def of(self, folds: Sequence[int] | None = None) -> Normal:
        """The rows of some folds, or of all, as one regression's data. Raises NumericalError when there are none."""
        chosen = list(range(len(self))) if folds is None else list(folds)
        rows = sum(self.counts[fold] for fold in chosen)
        if rows == 0:
            raise NumericalError("there are no rows to learn from", "give more prompts")
        sums = (self.products, self.squares, self.sums)
        parts = (each.sum(0) if folds is None else each[chosen].sum(0) for each in sums)  # all: without a copy
        products, squares, means = (part / rows for part in parts)
        if self.centre:
            products = products - means[: self.sources, None] * means
            squares = squares - means[self.sources :].square()
        return Normal(products[:, : self.sources], products[:, self.sources :], squares.clamp(min=0), rows)

    def without(self, fold: int) -> Normal:
        """The rows of all other folds."""
        return self.of([other for other in range(len(self)) if other != fold])

    def whitened(self, size: int) -> "Grams":
        """The same rows, every `size` neighbouring sources as their principal components of variance 1."""
        blocks = self.of().gram.unflatten(0, (-1, size)).unflatten(2, (-1, size)).diagonal(dim1=0, dim2=2)
        values, vectors = torch.linalg.eigh(blocks.permute(2, 0, 1))
        factor = values.clamp(min=1e-300).rsqrt()
        maps = vectors * factor.where(values > FAINT * values[:, -1:], torch.zeros_like(values))[:, None]
        found = Grams(self.sources, self.targets, folds=len(self), centre=self.centre)
        products = torch.einsum("fguw,guv->fgvw", self.products.unflatten(1, (-1, size)), maps).flatten(1, 2)
        own = torch.einsum("frgu,guv->frgv", products[:, :, : self.sources].unflatten(2, (-1, size)), maps)
        found.products = torch.cat([own.flatten(2), products[:, :, self.sources :]], 2)
        sums = torch.einsum("fgu,guv->fgv", self.sums[:, : self.sources].unflatten(1, (-1, size)), maps)
        found.sums = torch.cat([sums.flatten(1), self.sums[:, self.sources :]], 1)
        found.squares, found.counts = self.squares, self.counts
        return found

    def _add(self, both: Float[Tensor, "row column"], fold: int) -> None:
        sums = both.sum(0)
        if not sums.isfinite().all():
            at = int((~sums.isfinite()).nonzero()[0])
            where = f"source column {at}" if at < self.sources else f"target column {at - self.sources}"
            raise NumericalError(f"{where} is not finite", "use float32 weights, or check the prompts")
        x, y = both[:, : self.sources], both[:, self.sources :]
        self.products[fold].addmm_(x.T, both)
        self.squares[fold] += y.square().sum(0)
        self.sums[fold] += sums
        self.counts[fold] += len(both)
