"""From relaxed gates to a hard circuit: a threshold that meets the budget, then greedy changes at block and head level.

Both look at validation prompts only, and at hard masks only.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit import metrics
from subcircuit.batching import batched
from subcircuit.circuit import Kept, tidy
from subcircuit.intervention import Reference, masked_logits, masking
from subcircuit.progress import Progress
from subcircuit.sites import CHILDREN, Kind, Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs

__all__ = ["Validation", "calibrate", "polish"]

COARSE = (Kind.ATTN, Kind.MLP, Kind.HEAD)
Truth = dict[Site, Bool[Tensor, " unit"]]


class Validation:
    """KL(full || circuit) of hard masks on one set of prompts, with every answer remembered."""

    def __init__(self, subject: Subject, pairs: Pairs, reference: Reference, batch_size: int) -> None:
        self.subject, self.pairs, self.reference, self.batch_size = subject, pairs, reference, batch_size
        self.full = masked_logits(subject, pairs.clean, {}, reference, batch_size=batch_size)
        self.runs = 0

    def kl(self, kept: Kept) -> float:
        """Mean KL in nats; one pass over the prompts."""
        self.runs += 1
        mask = {site: truth.float() for site, truth in kept.items()}
        logits = masked_logits(self.subject, self.pairs.clean, mask, self.reference, batch_size=self.batch_size)
        return float(metrics.kl(self.full, logits).mean())

    def effects(self, kept: Kept) -> dict[Site, Float[Tensor, " unit"]]:
        """The gradient of KL by every gate of the circuit: negative = more of this node would help, to first order."""
        gates = {site: truth.float().requires_grad_() for site, truth in kept.items()}

        def add(rows: Tensor) -> None:
            with masking(self.subject, gates, self.reference(rows)):
                logits = self.subject.logits(self.pairs.clean[rows])
            (metrics.kl(self.full[rows], logits).sum() / len(self.pairs)).backward()

        batched(add, self.pairs.clean.lengths, self.batch_size)
        return {site: gate.grad if gate.grad is not None else torch.zeros_like(gate) for site, gate in gates.items()}


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


def polish(kept: Truth, allowed: Kept, validation: Validation, budget: float, *, tries: int, tell: Progress) -> Truth:
    """Reopen heads that lower KL, then close the branches and heads that the budget does not need.

    Candidates come in the order of their first-order effect; each change is tried on the validation prompts and kept
    only if it helps (reopening) or still fits the budget (closing). At most `tries` trials, a third of them reopenings.
    """
    best = validation.kl(kept)
    effects = validation.effects(kept)
    reopenings = _ranked(effects, kept, is_open=False, kinds=(Kind.HEAD,))
    closings = _ranked(effects, kept, is_open=True, kinds=COARSE)
    trials = [(True, *each) for each in reopenings[: tries // 3]]
    trials += [(False, *each) for each in closings[: tries - len(trials)]]
    for done, (reopen, site, unit) in enumerate(trials):
        changed = _changed(kept, allowed, site, unit, reopen)
        kl = validation.kl(changed)
        if kl < 0.95 * best if reopen else kl <= budget:
            kept, best = changed, kl
        tell("polish", done + 1, len(trials), kl=best)
    return kept


def _ranked(
    effects: Mapping[Site, Tensor], kept: Kept, *, is_open: bool, kinds: Sequence[Kind]
) -> list[tuple[Site, int]]:
    """Units that are open (or closed), those whose change promises the lowest KL first."""
    found = []
    for site in (site for site in kept if site.kind in kinds):
        for unit in (kept[site] == is_open).nonzero()[:, 0].tolist():
            effect = float(effects[site][unit])
            found.append((-effect if is_open else effect, site, unit))
    return [(site, unit) for _, site, unit in sorted(found)]


def _changed(kept: Truth, allowed: Kept, site: Site, unit: int, reopen: bool) -> Truth:
    """The circuit with one unit closed, or reopened together with what may be open inside it and above it."""
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
