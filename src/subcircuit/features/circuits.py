"""Circuits among sparse features, by sparse regression (Yin et al. 2026, arXiv 2606.16939, sections 3.3 and 3.4).

    features -> features    minimise ||Z_j - A' Z_i||^2 / 2n + alpha ||A||_1, for every feature of a later site j
    features -> target      minimise ||y - A' Z_i||^2 / 2n + alpha ||A||_1
    rank, of a data set     |A_iy|;   of a prompt   |A_iy| |z_i|

Solved exactly, on Gram matrices of the features that are on often enough. Departs from the paper: columns are centred,
and have a variance of 1 where penalties and coefficients are weighed; a target of two classes is regressed by least
squares, not by its cross-entropy; BIC chooses each target's penalty; besides the site before, all earlier sites may be
sources together (`joint`). A coefficient says what predicts what, and is no effect.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.errors import DataError, UsageError
from subcircuit.features.codes import Codes, products
from subcircuit.features.placing import Feature
from subcircuit.progress import Progress, silent
from subcircuit.regression.normal import Normal
from subcircuit.regression.selection import bic, error
from subcircuit.regression.solver import Problem, freedom, lambda_max, path
from subcircuit.sites import Site

__all__ = ["Link", "Ranking", "Screen", "links", "rank"]

TOGETHER = 128  # targets that are solved together
TOLERANCE = 1e-3  # duality gap, as a share of half a target's power


@dataclass(frozen=True)
class Screen:
    """Which features take part, and which penalties are tried. Raises UsageError for what is out of range."""

    share: float = 0.005  # of the rows that a feature is on in, at least
    most: int = 2048  # features of a site, at most: those on most often
    steps: int = 10  # penalties below lambda_max
    shrink: float = 0.01  # the last one, as a share of lambda_max

    def __post_init__(self) -> None:
        if not (0 <= self.share < 1 and self.most >= 1 and self.steps >= 1 and 0 < self.shrink < 1):
            raise UsageError(
                f"{self} is out of range", "share 0 to 1, most and steps 1 or more, shrink above 0 and below 1"
            )


USUAL = Screen()


class Link(NamedTuple):
    """A feature of a later site, predicted from one of an earlier site."""

    source: Feature
    target: Feature
    weight: float  # of columns with a variance of 1


@dataclass(frozen=True)
class Ranking:
    """Features of one site by how a target is predicted from them."""

    site: Site
    weights: Float[Tensor, " feature"]  # of columns with a variance of 1; 0 = not needed, or screened out
    slopes: Float[Tensor, " feature"]  # of features as they are: A_iy
    explained: float  # share of the target's variance

    def best(self, n: int | None = None) -> list[int]:
        """The features with a weight, the largest first."""
        return _best(self.weights.abs(), n)

    def best_of(self, row: Float[Tensor, " feature"], n: int | None = None) -> list[int]:
        """The same for one prompt or token, by `|A_iy| |z_i|`."""
        return _best((self.slopes * row).abs(), n)


def rank(codes: Codes, y: Float[Tensor, " row"], site: Site, screen: Screen = USUAL) -> Ranking:
    """Features by what they say of a number per row, such as a class of 0 or 1, or a logit difference.

    Raises DataError when no feature is on often enough, the target does not vary, or there is one row of `y` too few.
    """
    alive = _alive({site: codes}, screen)[site]
    if y.shape != (codes.rows,):
        raise DataError(f"there are {len(y)} numbers to predict for {codes.rows} rows", "give one a row")
    target = Codes.of(y.double()[:, None])
    if not target.power(torch.tensor([0])) > 0:
        raise DataError("the target is the same in all rows", "give rows of both classes")
    problem = Problem(_normal([(codes, alive)], (target, torch.tensor([0]))))
    coef = _solved(problem, screen)[:, 0]
    left = float(error(problem.normal, coef[:, None], 1))
    weights, slopes = torch.zeros(codes.features), torch.zeros(codes.features)
    weights[alive] = coef.float()
    slopes[alive] = (coef / codes.power(alive).sqrt() * target.power(torch.tensor([0])).sqrt()).float()
    return Ranking(site, weights, slopes, 1 - left)


def links(
    codes: Mapping[Site, Codes], screen: Screen = USUAL, *, joint: bool = False, progress: Progress = silent
) -> list[Link]:
    """What predicts the features of each site but the first, strongest first.

    Args:
        codes: by site, in the order of computation; rows are the same tokens or prompts.
        joint: on the features of all earlier sites together; else of the one before.

    Raises DataError for sites of different rows, or a site where no feature is on often enough.
    """
    sites = list(codes)
    rows = {str(site): each.rows for site, each in codes.items()}
    if len(set(rows.values())) > 1:
        raise DataError(f"the sites have different rows: {rows}", "take the codes of one set of prompts")
    alive = _alive(codes, screen)
    found: list[Link] = []
    for at, site in enumerate(sites[1:], start=1):
        sources = sites[:at] if joint else sites[at - 1 : at]
        normal = _normal([(codes[each], alive[each]) for each in sources], (codes[site], alive[site]))
        names = [Feature(each, index) for each in sources for index in alive[each].tolist()]
        for first in range(0, len(alive[site]), TOGETHER):
            last = min(first + TOGETHER, len(alive[site]))
            coef = _solved(Problem(normal.columns(first, last)), screen)
            for source, target in coef.nonzero().tolist():
                to = Feature(site, int(alive[site][first + target]))
                found.append(Link(names[source], to, float(coef[source, target])))
            progress(f"features at {site}", last, len(alive[site]))
    return sorted(found, key=lambda link: -abs(link.weight))


def _alive(codes: Mapping[Site, Codes], screen: Screen) -> dict[Site, Int[Tensor, " alive"]]:
    found = {site: each.alive(screen.share, screen.most) for site, each in codes.items()}
    for site, alive in found.items():
        if not len(alive):
            raise DataError(
                f"no feature at {site} is on in {screen.share:.1%} of the {codes[site].rows} rows, or none varies",
                "give more rows, or a smaller share",
            )
    return found


def _normal(sources: list[tuple[Codes, Tensor]], target: tuple[Codes, Tensor]) -> Normal:
    """Correlations of the chosen columns."""
    rows = target[0].rows
    x = torch.cat([codes.columns(alive) for codes, alive in sources], 1)
    means = torch.cat([codes.means(alive) for codes, alive in sources])
    scale = torch.cat([codes.power(alive) for codes, alive in sources]).rsqrt()
    y, y_scale = target[0].columns(target[1]), target[0].power(target[1]).rsqrt()
    gram = products(x, x) / rows - means[:, None] * means
    cross = products(x, y) / rows - means[:, None] * target[0].means(target[1])
    return Normal(
        gram * scale[:, None] * scale,
        cross * scale[:, None] * y_scale,
        torch.ones(len(y_scale), dtype=torch.float64),
        rows,
    )


def _solved(problem: Problem, screen: Screen) -> Float[Tensor, "source target"]:
    """The answers of the penalty of least BIC, target by target."""
    ratios = torch.linspace(0, 1, screen.steps + 1, dtype=torch.float64)
    ratios = screen.shrink**ratios
    top = lambda_max(problem)
    best = torch.full_like(top, torch.inf)
    found = torch.zeros_like(problem.normal.cross)
    for alpha, coef in path(problem, ratios[:, None] * top, tol=TOLERANCE):
        score = bic(problem, error(problem.normal, coef, 1), freedom(problem, alpha, coef))
        better = score < best - 1e-9 * score.abs()  # of equal ones the sparsest
        found[:, better], best = coef[:, better], best.where(~better, score)
    return found


def _best(weights: Float[Tensor, " feature"], n: int | None) -> list[int]:
    order = weights.argsort(descending=True, stable=True)[: int((weights > 0).sum())].tolist()
    return order if n is None else order[:n]
