"""Hidden states as rows that may lie in memory or on disk: taken by number, or block by block, as float32."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from subcircuit.errors import DataError, NumericalError

__all__ = ["BLOCK", "Vectors"]

BLOCK = 4096


class Vectors:
    """Rows of one layer. `parts` lie one after another, `rows` are the ones meant; `texts` says which text each is of.

    Rows of one text follow each other, in the order of their words.
    """

    def __init__(
        self,
        parts: Sequence[NDArray[np.floating]],
        rows: NDArray[np.int64] | None = None,
        texts: NDArray[np.int64] | None = None,
        places: NDArray[np.int64] | None = None,
    ) -> None:
        self.parts, self._ends = list(parts), np.cumsum([len(part) for part in parts])
        self.rows = np.arange(self._ends[-1]) if rows is None else rows
        self.texts = np.arange(len(self.rows)) if texts is None else texts
        self.places = np.zeros(len(self.rows), dtype=np.int64) if places is None else places

    @classmethod
    def of(cls, x: Float[Tensor, "row width"]) -> "Vectors":
        """Rows that lie in memory."""
        return cls([x.numpy()])

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        return int(self.parts[0].shape[1])

    def take(self, chosen: Tensor | NDArray[np.int64]) -> Float[Tensor, "row width"]:
        """Rows by number, in the order given."""
        wanted = self.rows[np.asarray(chosen)]
        found = np.empty((len(wanted), self.width), dtype=np.float32)
        owner = np.searchsorted(self._ends, wanted, side="right")
        for part in np.unique(owner):
            here = owner == part
            found[here] = self.parts[part][wanted[here] - (self._ends[part] - len(self.parts[part]))]
        return torch.from_numpy(found)

    def blocks(self, size: int = BLOCK) -> Iterator[Float[Tensor, "row width"]]:
        """All rows in their order."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))

    def moments(self) -> tuple[Float[Tensor, " width"], float]:
        """The mean, and the root mean square of a coordinate's distance to it. Raises NumericalError for a NaN."""
        total = torch.zeros(self.width, dtype=torch.float64)
        squares, seen = 0.0, 0
        for block in self.blocks():
            bad = (~block.isfinite().all(1)).nonzero()[:, 0].tolist()
            if bad:
                raise NumericalError(f"row {seen + bad[0]} of the states is not finite", "harvest them again")
            total, seen = total + block.double().sum(0), seen + len(block)
        mean = total / len(self)
        for block in self.blocks():
            squares += float((block.double() - mean).square().sum())
        return mean.float(), (squares / (len(self) * self.width)) ** 0.5

    def require(self, codes: int) -> None:
        """Raises DataError when there are fewer rows than codes."""
        if len(self) < codes:
            raise DataError(f"{len(self)} states cannot fill {codes} codes", "ask for fewer codes, or give more text")
