"""Which penalty of a path to take when nobody knows the truth: cross-validation, BIC, stability."""

from itertools import combinations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from subcircuit.regression.normal import Normal
from subcircuit.regression.problem import Coef, PerTarget, Problem

__all__ = ["bic", "by_bic", "by_cv", "error", "frequent", "halves"]


def error(normal: Normal, coef: Coef, width: int) -> PerTarget:
    """Mean squared error of each target, over its columns together, on any rows."""
    fitted = (coef * (normal.gram @ coef)).sum(0)
    each = normal.power - 2 * (coef * normal.cross).sum(0) + fitted
    return each.clamp(min=0).view(-1, width).sum(1)


def bic(problem: Problem, left: PerTarget, used: PerTarget) -> PerTarget:
    """`n log(error) + log(n) df`, n counting the columns of every row; errors that are but rounding are alike."""
    n = problem.normal.rows * problem.columns
    floor = 1e-4 * problem.power.clamp(min=1e-300)
    return n * torch.maximum(left, floor).log() + n.double().log() * used


def by_bic(scores: Float[Tensor, "step target"]) -> Int[Tensor, " target"]:
    """The step of least BIC; of equal ones the sparsest."""
    return scores.argmin(0)


def by_cv(held: Float[Tensor, "fold step target"]) -> Int[Tensor, " target"]:
    """The sparsest step whose held-out error is within one standard error of the least."""
    mean, spread = held.mean(0), held.std(0) / len(held) ** 0.5
    best = mean.argmin(0, keepdim=True)
    within: Tensor = mean <= mean.gather(0, best) + spread.gather(0, best)
    return within.int().argmax(0)


def halves(folds: int) -> list[list[int]]:
    """Complementary halves of the folds, each about as large as its other half; at most 20 (Shah & Samworth 2013)."""
    found: list[list[int]] = []
    for chosen in combinations(range(folds), folds // 2):
        rest = [fold for fold in range(folds) if fold not in chosen]
        if list(chosen) not in found and rest not in found:
            found += [list(chosen), rest]
    return found[:20]


def frequent(picked: Bool[Tensor, "half target group"], share: float) -> Bool[Tensor, "target group"]:
    """What at least this share of the halves picks."""
    return picked.float().mean(0) >= share
