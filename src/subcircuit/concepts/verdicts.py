"""From answers to a table: what each codebook is rated, how often its intruders are found, how far judges agree."""

from collections.abc import Mapping, Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from subcircuit.concepts.agreement import chance_w, kendall_w, krippendorff_alpha
from subcircuit.concepts.questions import SHOWN, Key
from subcircuit.evaluation.intervals import average
from subcircuit.scores import Estimate

__all__ = ["Judged", "Verdict", "judged"]


class Verdict(BaseModel):
    """One codebook."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rating: Estimate | None = Field(description="1 to 3, the mean of judges and texts, its interval over texts")
    intruders: Estimate | None = Field(description="share of the intruders that were found")
    unread: int = Field(description="questions that a judge left open or answered out of range")


class Judged(BaseModel):
    """All codebooks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    judges: list[str]
    codebooks: dict[str, Verdict]
    chance: float = Field(description="share of intruders found by guessing")
    alpha: float | None = Field(description="Krippendorff's, of ratings, interval; null for one judge")
    w: float | None = Field(description="Kendall's, of the codebooks' order by mean rating; null for one judge")
    w_chance: float | None = Field(description="its mean for judges who order at random, with the same ties")


def judged(answers: Mapping[str, Sequence[int | None]], keys: Sequence[Key], seed: int = 0) -> Judged:
    """`answers` of each judge are in the order of the keys."""
    given = torch.tensor([[torch.nan if a is None else float(a) for a in each] for each in answers.values()])
    books = list(dict.fromkeys(key.codebook for key in keys))
    rating = torch.tensor([key.right is None for key in keys])
    mine = {book: torch.tensor([key.codebook == book for key in keys]) for book in books}
    means = torch.stack([given[:, mine[book] & rating].nanmean(1) for book in books], 1)
    several = len(answers) > 1 and len(books) > 1 and bool(means.isfinite().all())
    return Judged(
        judges=list(answers),
        codebooks={book: _verdict(given, keys, mine[book], rating, seed) for book in books},
        chance=1 / (SHOWN + 1),
        alpha=krippendorff_alpha(given[:, rating]) if len(answers) > 1 else None,
        w=kendall_w(means) if several else None,
        w_chance=chance_w(means, seed=seed) if several else None,
    )


def _verdict(given: Tensor, keys: Sequence[Key], mine: Tensor, rating: Tensor, seed: int) -> Verdict:
    right = torch.tensor([torch.nan if key.right is None else float(key.right) for key in keys])
    found = (given == right).float().where(given.isfinite(), torch.nan)[:, mine & ~rating]
    return Verdict(
        rating=_average(given[:, mine & rating], seed),
        intruders=_average(found, seed),
        unread=int(given[:, mine].isnan().sum()),
    )


def _average(values: Tensor, seed: int) -> Estimate | None:
    """Over judges, then over items; items that nobody answered are left out."""
    items = values.nanmean(0)
    items = items[items.isfinite()]
    return average(items, seed) if len(items) else None
