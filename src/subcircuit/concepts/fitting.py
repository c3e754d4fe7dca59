"""What all codebooks have in common: a start, a last pass in which every state finds its code, and the directions."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.concepts.codebook import About, Codebook, Encoder
from subcircuit.concepts.vectors import Vectors
from subcircuit.errors import MissingExtra, NumericalError

__all__ = ["draws", "finished", "sklearn_cluster", "spherical_start"]

log = logging.getLogger(__name__)

SAMPLE = 20  # states a code on which the start is made
ROUNDS = 10  # of k-means that it takes


def sklearn_cluster() -> Any:
    """scikit-learn's clustering. Raises MissingExtra."""
    try:
        import sklearn.cluster
    except ImportError as error:
        raise MissingExtra("clustering", "concepts") from error
    return sklearn.cluster


def draws(n: int, size: int, steps: int, seed: int) -> list[Int[Tensor, " row"]]:
    """Batches of rows, each row once before any comes again."""
    generator = torch.Generator().manual_seed(seed)
    size = min(size, n)
    passes = -(-steps * size // n)
    rows = torch.cat([torch.randperm(n, generator=generator) for _ in range(passes)])
    return list(rows.split(size))[:steps]


def spherical_start(x: Float[Tensor, "row width"], codes: int, seed: int) -> Float[Tensor, "code width"]:
    """Scaled-spherical k-means++: k-means on directions from its seeds, then each centre at its members' length."""
    cluster = sklearn_cluster()
    unit = torch.nn.functional.normalize(x, dim=-1)
    seeds, _ = cluster.kmeans_plusplus(unit.numpy(), codes, random_state=seed)
    centres = torch.nn.functional.normalize(torch.from_numpy(seeds), dim=-1)
    for _ in range(ROUNDS):
        mine = (unit @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, mine, unit)
        empty = sums.norm(dim=-1, keepdim=True) == 0
        centres = torch.nn.functional.normalize(sums.where(~empty, centres), dim=-1)
    mine, length = (unit @ centres.T).argmax(1), x.norm(dim=-1)
    counts = torch.bincount(mine, minlength=codes)
    mean = torch.zeros(codes).index_add_(0, mine, length) / counts.clamp(min=1)
    return centres * mean.where(counts > 0, length.mean())[:, None]


def finished(
    states: Vectors,
    codes: Float[Tensor, "code width"],
    mean: Float[Tensor, " width"],
    scale: float,
    *,
    method: str,
    settings: dict[str, Any],
    beyond: float,
    unit: bool = False,
    encoder: Encoder | None = None,
    offsets: Float[Tensor, " code"] | None = None,
    said: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Codebook, Int[Tensor, " row"]]:
    """The codebook of these codes, and the code of every state: codes without members are left out.

    Raises NumericalError for codes that are no numbers.
    """
    if not codes.isfinite().all():
        raise NumericalError(f"the codes of {method} are not finite", "fit with a smaller --rate")
    about = About(method=method, settings=settings, asked=len(codes), states=len(states), perplexity=1.0, beyond=beyond)
    counts = torch.zeros(len(codes), dtype=torch.long)
    draft = Codebook(about, codes, mean, scale, torch.zeros_like(codes), counts, float("inf"), unit, encoder, offsets)
    sums = torch.zeros(len(codes), len(mean), dtype=torch.float64)
    assigned, distances = [], []
    for block in states.blocks():
        mine, away = draft.assign(block)
        sums.index_add_(0, mine, block.double() - mean.double())
        counts += torch.bincount(mine, minlength=len(codes))
        assigned.append(mine)
        distances.append(away)
        said(sum(map(len, assigned)), len(states))
    active = counts > 0
    if not bool(active.all()):
        log.warning("%d of %d codes have no member and are left out", int((~active).sum()), len(codes))
    renumbered = active.cumsum(0) - 1
    share = counts[active].double() / len(states)
    book = replace(
        draft,
        about=about.model_copy(update={"perplexity": float((-(share * share.log()).sum()).exp())}),
        codes=codes[active],
        offsets=None if offsets is None else offsets[active],
        directions=(sums[active] / counts[active, None]).float(),
        counts=counts[active],
        threshold=float(np.quantile(torch.cat(distances).numpy(), 1 - beyond)),
    )
    return book, renumbered[torch.cat(assigned)]
