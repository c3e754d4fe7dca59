"""How well scores rank what is true above what is not, ties counted for what they are.

AUROC is the chance that a true item outranks a false one, a tie counting half. AUPRC is average precision: precision at
each distinct score, weighted by the recall it adds, so that items of one score enter together. Neither depends on the
order in which ties happen to stand.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from subcircuit.errors import NumericalError

__all__ = ["Ranked", "auroc", "average_precision", "pooled", "ranked"]


class Ranked(BaseModel):
    """How one ranking did against the truth."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    auroc: float | None = Field(
        description="1 = every true item above every false one, 0.5 = by lot; null without both"
    )
    auprc: float | None = Field(description="average precision; by lot it is true / total; null without both")
    true: int
    total: int


def ranked(scores: Float[Tensor, " item"], truth: Bool[Tensor, " item"]) -> Ranked:
    """Both numbers. Raises NumericalError when a score is NaN."""
    if scores.isnan().any():
        raise NumericalError(f"{int(scores.isnan().sum())} of {len(scores)} scores are NaN and have no rank")
    true, total = int(truth.sum()), len(truth)
    if true in (0, total):
        return Ranked(auroc=None, auprc=None, true=true, total=total)
    return Ranked(auroc=auroc(scores, truth), auprc=average_precision(scores, truth), true=true, total=total)


def auroc(scores: Float[Tensor, " item"], truth: Bool[Tensor, " item"]) -> float:
    """From the sum of the true items' ranks, equal scores having the mean of their ranks (Mann-Whitney)."""
    _, place, count = scores.unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    mean_rank = (last - (count - 1) / 2)[place]
    true, false = int(truth.sum()), int((~truth).sum())
    return float((mean_rank[truth].sum() - true * (true + 1) / 2) / (true * false))


def average_precision(scores: Float[Tensor, " item"], truth: Bool[Tensor, " item"]) -> float:
    """`sum (R_i - R_(i-1)) P_i` over the distinct scores from the highest down."""
    distinct, place = scores.unique(return_inverse=True)
    level = len(distinct) - 1 - place  # 0 = the highest score
    taken = torch.bincount(level, minlength=len(distinct)).double()
    right = torch.bincount(level[truth], minlength=len(distinct)).double()
    precision = right.cumsum(0) / taken.cumsum(0)
    return float((right * precision).sum() / right.sum())


def pooled(kinds: Mapping[str, Ranked]) -> Ranked:
    """Rankings of several kinds as one, no item being compared with one of another kind.

    AUROC over all pairs of a true and a false item of one kind; AUPRC as the mean over true items.
    """
    parts = [part for part in kinds.values() if part.auroc is not None and part.auprc is not None]
    true, total = (sum(getattr(part, name) for part in kinds.values()) for name in ("true", "total"))
    if not parts:
        return Ranked(auroc=None, auprc=None, true=true, total=total)
    pairs = [part.true * (part.total - part.true) for part in parts]
    by_pair = sum((part.auroc or 0.0) * weight for part, weight in zip(parts, pairs, strict=True)) / sum(pairs)
    by_item = sum((part.auprc or 0.0) * part.true for part in parts) / sum(part.true for part in parts)
    return Ranked(auroc=by_pair, auprc=by_item, true=true, total=total)
