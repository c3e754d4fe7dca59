"""Attribution scores: what closing each node would change, to first order, for every node at once.

With a node's value written as `reference + gate * (clean - reference)`, the derivative by its gate is the field's
attribution patching score `gradient . (clean - reference)` (Nanda 2023; Syed et al. 2023). Integrated along the path of
all gates from 0 to 1 (Sundararajan et al. 2017, as in EAP-IG) the scores of a layer cut sum to the difference between
the full and the empty circuit.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit import metrics
from subcircuit.errors import NumericalError, UnknownName
from subcircuit.intervention import Reference, masking
from subcircuit.parallel.group import count
from subcircuit.parallel.rows import shared
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs

__all__ = ["Objective", "attribution", "benefit", "coarsen"]

Objective = Literal["logit-difference", "kl"]


def attribution(
    subject: Subject,
    pairs: Pairs,
    reference: Reference,
    *,
    objective: Objective = "logit-difference",
    steps: int = 1,
    batch_size: int = 32,
    on_step: Callable[[int], None] = lambda done: None,
) -> dict[Site, Float[Tensor, " unit"]]:
    """Mean over prompts of each node's share in the objective; positive = the node helps.

    Args:
        reference: what nodes are switched to; its sites are the ones scored.
        objective: "logit-difference", higher with the node, or "kl", KL(full || circuit), lower with the node. The
            latter's gradient is 0 at the full model, so it needs `steps` > 1.
        steps: 1 takes the gradient at the clean run; more take it at the midpoints of as many intervals of the gate.

    Raises NumericalError when a gradient is not finite, naming the site.
    """
    if objective not in get_args(Objective):
        raise UnknownName("objective", objective, get_args(Objective))
    points = [1.0] if steps == 1 else [(step + 0.5) / steps for step in range(steps)]
    total = {site: torch.zeros(subject.units(site.kind)) for site in reference.sites}

    def add(rows: Tensor) -> None:
        batch = pairs[rows]
        with torch.no_grad():
            full = subject.logits(batch.clean)
        found = {site: torch.zeros_like(score) for site, score in total.items()}
        for point in points:
            gates = {site: torch.full_like(score, point).requires_grad_() for site, score in total.items()}
            with masking(subject, gates, reference(rows)):
                logits = subject.logits(batch.clean)
            gained = benefit(objective, full, logits, batch).sum()
            for site, slope in zip(gates, torch.autograd.grad(gained, list(gates.values())), strict=True):
                found[site] += slope
            on_step(len(rows) * count())  # of all processes, as good as
        for site, share in found.items():  # only now, for memory may have run out at any point
            total[site] += share

    shared(add, pairs.clean.lengths, batch_size, *total.values())
    for site, score in total.items():
        if not score.isfinite().all():
            raise NumericalError(f"the gradient at {site} is not finite", "use float32 weights, or check the prompts")
    return {site: score / (len(pairs) * len(points)) for site, score in total.items()}


def coarsen(
    subject: Subject, scores: dict[Site, Float[Tensor, " unit"]], kinds: Sequence[Kind]
) -> dict[Site, Float[Tensor, " unit"]]:
    """Scores of these kinds from scores of the sites where gates act: a parent's is the sum of its children's.

    That is the derivative of a product of gates that are all 1.
    """
    sums = dict(scores)
    for layer in {site.layer for site in scores}:
        here = {site.kind: score for site, score in scores.items() if site.layer == layer}
        if Kind.CHANNEL in here:
            sums[Site(layer, Kind.HEAD)] = here[Kind.CHANNEL].view(subject.units(Kind.HEAD), -1).sum(-1)
            sums[Site(layer, Kind.ATTN)] = here[Kind.CHANNEL].sum(0, keepdim=True)
        if Kind.NEURON in here:
            sums[Site(layer, Kind.MLP)] = here[Kind.NEURON].sum(0, keepdim=True)
        if Kind.K in here and Kind.V in here:
            sums[Site(layer, Kind.KV)] = here[Kind.K] + here[Kind.V]
        branches = [sums[Site(layer, kind)] for kind in (Kind.ATTN, Kind.MLP) if Site(layer, kind) in sums]
        if branches:
            sums[Site(layer, Kind.BLOCK)] = torch.stack(branches).sum(0)
    return {site: score for site, score in sums.items() if site.kind in kinds}


def benefit(objective: Objective, full: Tensor, logits: Tensor, pairs: Pairs) -> Float[Tensor, " pair"]:
    """The objective pair by pair; higher = nearer to what the full model does."""
    if objective == "kl":
        return -metrics.kl(full, logits)
    return metrics.logit_difference(logits, pairs.right, pairs.wrong)
