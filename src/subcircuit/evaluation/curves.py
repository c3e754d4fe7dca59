"""Faithfulness against size: the ten sizes, the areas and the definitions of MIB (arXiv 2504.13151).

`f(k) = (m(C_k) - m(empty)) / (m(full) - m(empty))`, a ratio of mean logit differences, where `C_k` holds the first
`int(k * n)` of n ranked items. CPR is the trapezoid of f over k, ranked by signed score; CMD is that of `|1 - f|`,
ranked by absolute score. A perfect ranking has CPR .999 and CMD 0, one that is of no use before the end CPR .25.

Departures, all of them additions: half of either integral lies between k = .5 and 1, so the same areas over log k, as
means (perfect = 1 and 0), stand beside them; and the mean over prompts of each prompt's own ratio beside the ratio of
means. Intervals resample prompts.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from subcircuit.evaluation.intervals import GAP, UNDEFINED, average, estimate, resamples
from subcircuit.evaluation.setting import Result, Setting
from subcircuit.scores import Estimate, PerPrompt

__all__ = ["SIZES", "Areas", "Curve", "Order", "Point", "Ranking", "cmd", "cpr", "curve", "ratio_of_means", "ratios"]

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
Order = Literal["score", "magnitude"]
Faithfulness = Float[Tensor, "draw size"]


class Ranking(Protocol):
    """Items in an order of which any part can be run as a circuit: nodes here, edges alike."""

    @property
    def setting(self) -> Setting: ...

    @property
    def scores(self) -> Float[Tensor, " item"]:
        """Higher = more needed."""
        ...

    @property
    def signed(self) -> bool:
        """Whether a score is an effect with a sign, so that its magnitude orders items as well."""
        ...

    @property
    def ends(self) -> tuple[PerPrompt, PerPrompt]:
        """The full model and the empty circuit."""
        ...

    def connected(self, chosen: Bool[Tensor, " item"]) -> Bool[Tensor, " item"]:
        """What is left of a choice once items are dropped that lie on no path from input to output."""
        ...

    def run(self, chosen: Bool[Tensor, " item"]) -> PerPrompt:
        """Every metric with only the chosen items on, prompt by prompt."""
        ...


class Point(BaseModel):
    """One size."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fraction: float = Field(description="k: the share of items asked for")
    items: int = Field(description="int(k * n)")
    connected: int = Field(description="items left when unconnected ones are dropped")
    faithfulness: Estimate | None = Field(description="ratio of means; 1 = full model, 0 = empty circuit")
    by_prompt: Estimate | None = Field(description="mean of each prompt's own ratio")
    kl: Estimate | None = Field(description="KL(full || circuit) in nats")


class Areas(BaseModel):
    """What one order of items comes to, each a trapezoid over the sizes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    area: Estimate | None = Field(description="of f over k; the CPR where items are ranked by signed score")
    distance: Estimate | None = Field(description="of |1 - f| over k; the CMD where ranked by absolute score")
    log_area: Estimate | None = Field(description="mean of f over log k; perfect = 1")
    log_distance: Estimate | None = Field(description="mean of |1 - f| over log k; perfect = 0")


class Curve(Result):
    """Faithfulness at every size, for one order of the items."""

    order: Order = Field(description="score: by signed score; magnitude: by absolute score")
    total: int = Field(description="items in all")
    points: list[Point]
    means: Areas | None = Field(description="of the ratio of means")
    by_prompt: Areas | None = Field(description="of the mean of ratios")
    left_out: int = Field(description="prompts without a gap, which have no ratio of their own")
    undefined: str = Field(default="", description="why there is no faithfulness; empty where there is")


def curve(ranking: Ranking, order: Order = "score", *, seed: int = 0, sizes: Sequence[float] = SIZES) -> Curve:
    """Run the top of a ranking at every size. Sizes that hold the same items are run once."""
    scores = ranking.scores.abs() if order == "magnitude" else ranking.scores
    full, empty = ranking.ends
    by_rank = scores.argsort(descending=True, stable=True)
    runs, found = [], []
    for size in sizes:
        chosen = torch.zeros(len(scores), dtype=torch.bool).index_fill(0, by_rank[: int(size * len(scores))], True)
        connected = ranking.connected(chosen)
        found.append(ranking.run(connected))
        runs.append((size, int(chosen.sum()), int(connected.sum())))
    rows = resamples(len(full["kl"]), seed)
    top, bottom = full["logit_difference"], empty["logit_difference"]
    inside = torch.stack([each["logit_difference"] for each in found])
    means, alone = (_both(statistic, inside, top, bottom, rows) for statistic in (ratio_of_means, ratios))
    points = [
        Point(
            fraction=size,
            items=items,
            connected=connected,
            faithfulness=estimate(means[0][index], means[1][:, index]),
            by_prompt=estimate(alone[0][index], alone[1][:, index]),
            kl=average(each["kl"], seed),
        )
        for index, ((size, items, connected), each) in enumerate(zip(runs, found, strict=True))
    ]
    return Curve(
        setting=ranking.setting,
        order=order,
        total=len(scores),
        points=points,
        means=_areas(*means, sizes),
        by_prompt=_areas(*alone, sizes),
        left_out=int(((top - bottom).abs() <= GAP).sum()),
        undefined="" if means[0].isfinite().all() else UNDEFINED,
    )


def ratio_of_means(inside: Tensor, full: Tensor, empty: Tensor, rows: Int[Tensor, "draw prompt"]) -> Faithfulness:
    """`(m(C) - m(empty)) / (m(full) - m(empty))` of each draw; NaN where there is no gap."""
    gap = (full - empty).double()[rows].mean(1)
    gain = torch.stack([each[rows].mean(1) for each in (inside - empty).double()], 1)
    return gain / gap.where(gap.abs() > GAP, torch.nan)[:, None]


def ratios(inside: Tensor, full: Tensor, empty: Tensor, rows: Int[Tensor, "draw prompt"]) -> Faithfulness:
    """The mean over prompts of their own ratios; prompts without a gap are left out."""
    gap = (full - empty).double()
    own = (inside - empty).double() / gap.where(gap.abs() > GAP, torch.nan)
    return torch.stack([each[rows].nanmean(1) for each in own], 1)


def cpr(f: Faithfulness, sizes: Sequence[float] = SIZES) -> Float[Tensor, " draw"]:
    """Trapezoid of f over k."""
    return torch.trapezoid(f, torch.tensor(sizes, dtype=f.dtype))


def cmd(f: Faithfulness, sizes: Sequence[float] = SIZES) -> Float[Tensor, " draw"]:
    """Trapezoid of |1 - f| over k."""
    return cpr((1 - f).abs(), sizes)


def _log(area: Callable[..., Tensor]) -> Callable[[Faithfulness, Sequence[float]], Tensor]:
    """The same area over log k, as a mean."""

    def mean(f: Faithfulness, sizes: Sequence[float]) -> Tensor:
        logs = torch.tensor(sizes, dtype=torch.float64).log()
        return area(f, ((logs - logs[0]) / (logs[-1] - logs[0])).tolist())

    return mean


def _both(
    statistic: Callable[..., Faithfulness], inside: Tensor, full: Tensor, empty: Tensor, rows: Tensor
) -> tuple[Float[Tensor, " size"], Faithfulness]:
    """A statistic of all prompts, and of each resample."""
    whole = torch.arange(len(full))[None]
    return statistic(inside, full, empty, whole)[0], statistic(inside, full, empty, rows)


def _areas(f: Float[Tensor, " size"], drawn: Faithfulness, sizes: Sequence[float]) -> Areas | None:
    if not f.isfinite().all():
        return None
    areas = (cpr, cmd, _log(cpr), _log(cmd))
    area, distance, log_area, log_distance = (estimate(each(f[None], sizes)[0], each(drawn, sizes)) for each in areas)
    return Areas(area=area, distance=distance, log_area=log_area, log_distance=log_distance)
