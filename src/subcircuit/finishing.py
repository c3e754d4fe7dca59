"""From relaxed gates to a hard circuit: a threshold that meets the budget, then greedy changes at block and head level.

Both look at validation prompts only, and at hard masks only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit import metrics
from subcircuit.circuit import Kept, tidy
from subcircuit.intervention import ACTING, Reference, effective, masked_logits, masking
from subcircuit.parallel.rows import shared
from subcircuit.progress import Progress
from subcircuit.sites import CHILDREN, Kind, Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs

__all__ = ["Finish", "Validation", "calibrate", "reduced", "reopened", "reranked"]

COARSE = (Kind.ATTN, Kind.MLP, Kind.HEAD)
Truth = dict[Site, Bool[Tensor, " unit"]]
Scores = Mapping[Site, Float[Tensor, " unit"]]
Change = tuple[bool, Site, int]  # True to reopen, False to close; which unit


class Validation:
    """KL(full || circuit) of hard masks on one set of prompts."""

    def __init__(self, subject: Subject, pairs: Pairs, reference: Reference, batch_size: int) -> None:
        self.subject, self.pairs, self.reference, self.batch_size = subject, pairs, reference, batch_size
        self.full = masked_logits(subject, pairs.clean, {}, reference, batch_size=batch_size)
        self._known: dict[bytes, float] = {}  # a search comes back to the same circuits

    def kl(self, kept: Kept) -> float:
        """Mean KL in nats; one pass over the prompts, unless this mask was asked before."""
        key = b"".join(kept[site].numpy().tobytes() for site in sorted(kept))
        if key not in self._known:
            self._known[key] = self._kl(kept)
        return self._known[key]

    def _kl(self, kept: Kept) -> float:
        mask = {site: truth.float() for site, truth in kept.items()}
        logits = masked_logits(self.subject, self.pairs.clean, mask, self.reference, batch_size=self.batch_size)
        return float(metrics.kl(self.full, logits).mean())

    def slopes(self, kept: Kept) -> dict[Site, Float[Tensor, " unit"]]:
        """The gradient of KL where masks act: negative = more of this unit would help, open now or not."""
        masks = effective(self.subject, {site: truth.float() for site, truth in kept.items()})
        masks = {site: mask.requires_grad_() for site, mask in masks.items()}
        total = {site: torch.zeros_like(mask) for site, mask in masks.items()}

        def add(rows: Tensor) -> None:
            with masking(self.subject, masks, self.reference(rows)):
                logits = self.subject.logits(self.pairs.clean[rows])
            kl = metrics.kl(self.full[rows], logits).sum() / len(self.pairs)
            for site, slope in zip(masks, torch.autograd.grad(kl, list(masks.values())), strict=True):
                total[site] += slope

        shared(add, self.pairs.clean.lengths, self.batch_size, *total.values())
        return total


def calibrate(
    scores: Mapping[Site, Float[Tensor, " unit"]],
    fits: Callable[[Truth], bool],
    *,
    limit: float,
    tries: int = 8,
    largest: bool = False,
) -> Truth:
    """The smallest (or largest) circuit of the form `scores > threshold` that fits, by bisection over [-limit, limit].

    Smallest: for budgets that closing nodes breaks; where nothing fits, every node with a score above `-limit - 1`.
    Largest: for budgets that opening nodes breaks; where nothing fits, the nodes that stand at the limit.
    """

    def above(threshold: float) -> Truth:
        return tidy({site: score > threshold for site, score in scores.items()})

    low, high, threshold = -limit - 1.0, limit, 0.0
    best = above(high - 1e-6) if largest else above(low)
    for _ in range(tries):
        kept = above(threshold)
        fit = fits(kept)
        best = kept if fit else best
        low, high = (threshold, high) if fit != largest else (low, threshold)
        threshold = (low + high) / 2
    return best


def reranked(
    scores: Mapping[Site, Float[Tensor, " unit"]], slopes: Mapping[Site, Float[Tensor, " unit"]], limit: float
) -> dict[Site, Float[Tensor, " unit"]]:
    """Scores in which units that lie together at the lower limit are told apart, over the unit of score above it.

    What comes first is what promises to lower KL most when it opens, to first order (`slopes`, where masks act); a
    coarse unit promises what the best unit inside it does.
    """
    promises: dict[Site, Tensor] = {}
    for kind in {site.kind for site in slopes}:
        sites = [site for site in slopes if site.kind is kind]
        order = torch.cat([slopes[site] for site in sites]).argsort(descending=True).argsort()
        quantiles = order.float() / len(order)
        promises |= dict(zip(sites, quantiles.split([len(slopes[site]) for site in sites]), strict=True))
    found = {}
    for site, score in scores.items():
        inside = [promises[each] for each in promises if each.layer == site.layer and site.kind in ACTING[each.kind]]
        best = torch.stack([part.view(len(score), -1).amax(1) for part in inside]).amax(0)
        bottom = (score - (-limit)).abs() < 1e-3
        found[site] = torch.where(bottom, score + best, score)
    return found


@dataclass(frozen=True)
class Finish:
    """From scores to the smallest hard circuit whose KL on validation prompts stays within a budget."""

    budget: float
    allowed: Kept
    validation: Validation
    limit: float  # |score| never passes it
    tell: Progress

    def threshold(self, scores: Scores) -> Truth:
        """The smallest circuit above some threshold that fits."""
        return calibrate(self._order(scores), self._fits, limit=self.limit)

    def polish(self, kept: Truth, scores: Scores, *, tries: int) -> Truth:
        """Reopen heads that lower KL most and spend what that gains on a higher threshold; then close what is idle.

        A third of the `tries` are reopenings.
        """
        better = reopened(kept, self.allowed, self.validation, tries=tries // 3, tell=self.tell)
        new = {site: truth & ~kept[site] for site, truth in better.items()}
        if any(truth.any() for truth in new.values()):
            order = {site: score.masked_fill(new[site], self.limit) for site, score in self._order(scores).items()}
            kept = calibrate(order, self._fits, limit=self.limit)
        tries -= tries // 3
        return reduced(kept, self.allowed, self.validation, self.budget, tries=tries, tell=self.tell)

    def _fits(self, kept: Truth) -> bool:
        return self.validation.kl(kept) <= self.budget

    def _order(self, scores: Scores) -> Scores:
        begun = tidy({site: score > 0 for site, score in scores.items()})
        return reranked(scores, self.validation.slopes(begun), self.limit)


def reopened(kept: Truth, allowed: Kept, validation: Validation, *, tries: int, tell: Progress) -> Truth:
    """The circuit with closed heads opened where that lowers KL, those of the best first-order effect tried first."""
    best = validation.kl(kept)
    ranked = _ranked(kept, allowed, validation)
    trials = [change for change in ranked if change[0] and change[1].kind is Kind.HEAD][:tries]
    for done, change in enumerate(trials):
        changed = _changed(kept, allowed, change)
        kl = validation.kl(changed)
        if kl < 0.95 * best:
            kept, best = changed, kl
        tell("reopening", done + 1, len(trials), kl=best)
    return kept


def reduced(kept: Truth, allowed: Kept, validation: Validation, budget: float, *, tries: int, tell: Progress) -> Truth:
    """The circuit without the branches and heads that the budget does not need, the least effect tried first."""
    trials = [change for change in _ranked(kept, allowed, validation) if not change[0]][:tries]
    for done, change in enumerate(trials):
        changed = _changed(kept, allowed, change)
        kl = validation.kl(changed)
        kept = changed if kl <= budget else kept
        tell("closing", done + 1, len(trials), kl=kl)
    return kept


def _ranked(kept: Truth, allowed: Kept, validation: Validation) -> list[Change]:
    """Every branch and head closed if open and reopened if closed: what promises the lowest KL first."""
    slopes = validation.slopes(kept)

    def promised(change: Change) -> float:
        before = {site: truth for site, truth in kept.items() if site.layer == change[1].layer}
        after = _changed(before, allowed, change)
        old, new = (effective(validation.subject, {s: t.float() for s, t in each.items()}) for each in (before, after))
        return sum(float((slopes[site] * (new[site] - old[site])).sum()) for site in new)

    coarse = [site for site in sorted(kept) if site.kind in COARSE]
    changes = [(not is_open, site, unit) for site in coarse for unit, is_open in enumerate(kept[site].tolist())]
    return sorted(changes, key=promised)


def _changed(kept: Truth, allowed: Kept, change: Change) -> Truth:
    """The circuit with one unit closed, or reopened together with what may be open inside it and above it."""
    reopen, site, unit = change
    changed = {each: truth.clone() for each, truth in kept.items()}
    changed[site][unit] = reopen
    if reopen:
        for kind in (Kind.ATTN, Kind.BLOCK):
            if Site(site.layer, kind) in changed:
                changed[Site(site.layer, kind)][:] = True
        for kind in CHILDREN.get(site.kind, ()):
            inner = Site(site.layer, kind)
            if inner in changed:
                size = len(changed[inner]) // len(changed[site])
                span = slice(unit * size, (unit + 1) * size)
                changed[inner][span] = allowed[inner][span]
    return tidy({each: truth & allowed[each] for each, truth in changed.items()})
