"""Can labels still be read off states whose concept is gone? A linear probe tells, once as it was and once taught anew.

Ridge regression on the labels, each text judged by a probe that was taught without it. A removal that a probe of whole
states no longer sees through, and one that is taught anew does, has moved the information and not taken it away.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Probe"]

FOLDS = 5
RIDGE = 1.0  # of the mean squared length of the centred states


@dataclass(frozen=True)
class Probe:
    """Texts, their labels, and which of them are judged together."""

    whole: Float[Tensor, "text width"]
    gold: Int[Tensor, " text"]
    fold: Int[Tensor, " text"]

    @classmethod
    def of(cls, whole: Float[Tensor, "text width"], gold: Int[Tensor, " text"], seed: int) -> "Probe | None":
        """Labels spread evenly over the folds; None where there is one, or one of fewer texts than folds."""
        labels, counts = gold.unique(return_counts=True)
        if len(labels) < 2 or int(counts.min()) < FOLDS:
            return None
        fold, generator = torch.zeros_like(gold), torch.Generator().manual_seed(seed)
        for label in labels:
            mine = (gold == label).nonzero()[:, 0]
            fold[mine[torch.randperm(len(mine), generator=generator)]] = torch.arange(len(mine)) % FOLDS
        return cls(whole, gold, fold)

    def once(self, states: Float[Tensor, "text width"]) -> Float[Tensor, " text"]:
        """1 where a text's label is read right off its state by a probe that was taught on whole ones."""
        return self._read(self.whole, states)

    def anew(self, states: Float[Tensor, "text width"]) -> Float[Tensor, " text"]:
        """The same by one that was taught on such states."""
        return self._read(states, states)

    def _read(self, taught: Tensor, asked: Tensor) -> Tensor:
        right = torch.zeros(len(self.gold))
        target = torch.nn.functional.one_hot(self.gold).double()
        for number in range(FOLDS):
            train, test = self.fold != number, self.fold == number
            mean, base = taught[train].double().mean(0), target[train].mean(0)
            x = taught[train].double() - mean
            gram = x @ x.T
            gram += RIDGE * gram.diagonal().mean() * torch.eye(len(x), dtype=torch.float64)
            weights = x.T @ torch.linalg.solve(gram, target[train] - base)
            read = ((asked[test].double() - mean) @ weights + base).argmax(1)
            right[test] = (read == self.gold[test]).float()
        return right
