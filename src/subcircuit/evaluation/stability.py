"""Stability: how alike circuits are that other seeds, or other prompts of the same task, would have given.

Two circuits are compared by Jaccard, per kind: nodes in both over nodes in either. Over seeds the whole search is run
again, prompts and all. Over prompts a ranking by attribution is made again from resampled prompts, at the circuit's
size, and compared with the ranking from all of them; no model is run for it but once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from subcircuit import metrics, plugins
from subcircuit.batching import batched
from subcircuit.circuit import EDGE, Circuit, Kept, matched
from subcircuit.edge_tables import Edges
from subcircuit.evaluation.intervals import estimate, resamples
from subcircuit.evaluation.panel import RANKING, Panel
from subcircuit.evaluation.setting import Result, Setting
from subcircuit.gradients import coarsen
from subcircuit.intervention import Reference, masking
from subcircuit.scores import Estimate
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs, Task

__all__ = [
    "Members",
    "Stability",
    "again",
    "agreement",
    "by_prompt",
    "jaccard",
    "members",
    "over_prompts",
    "over_seeds",
]

Members = Mapping[str, Bool[Tensor, " member"]]
ByPrompt = Mapping[Site, Float[Tensor, "prompt unit"]]


class Stability(Result):
    """Jaccard per kind."""

    over: Literal["seeds", "prompts"]
    method: str = Field(description="whose circuits are compared")
    runs: int = Field(description="circuits compared: one per seed, or one per resample")
    jaccard: dict[str, Estimate] = Field(
        description="1 = the same nodes, 0 = none in common; a kind that is all open has 1"
    )


def members(kept: Kept, edges: Edges | None = None) -> Members:
    """What is in a circuit, kind by kind."""
    kinds = dict.fromkeys(site.kind for site in kept)
    found = {str(kind): torch.cat([kept[site] for site in sorted(kept) if site.kind is kind]) for kind in kinds}
    return found if edges is None else found | {EDGE: edges.kept.flatten()}


def jaccard(a: Members, b: Members) -> dict[str, float]:
    """What is in both circuits over what is in either, by kind; 1 where both are empty."""
    either = {kind: int((a[kind] | b[kind]).sum()) for kind in a}
    return {kind: int((a[kind] & b[kind]).sum()) / either[kind] if either[kind] else 1.0 for kind in a}


def agreement(circuits: Sequence[Members], seed: int = 0) -> dict[str, Estimate]:
    """Mean Jaccard of all pairs of circuits; intervals resample circuits, and pair none with itself."""
    runs = len(circuits)
    rows = resamples(runs, seed)
    same = rows[:, :, None] == rows[:, None, :]
    pairs = [[jaccard(a, b) for b in circuits] for a in circuits]
    found = {}
    for kind in pairs[0][0]:
        table = torch.tensor([[each[kind] for each in row] for row in pairs], dtype=torch.float64)
        drawn = table[rows[:, :, None], rows[:, None, :]].masked_fill(same, torch.nan).flatten(1).nanmean(1)
        whole = table.masked_fill(torch.eye(runs, dtype=torch.bool), torch.nan).nanmean()
        if (known := estimate(whole, drawn)) is not None:
            found[kind] = known
    return found


def over_seeds(circuit: Circuit, others: Sequence[Members]) -> Stability:
    """The circuit and those that its search finds with further seeds."""
    return Stability(
        setting=Setting.of(circuit, ""),
        over="seeds",
        method=circuit.origin.method,
        runs=1 + len(others),
        jaccard=agreement([members(circuit.kept, circuit.edges), *others]),
    )


def again(circuit: Circuit, subject: Subject, task: Task) -> Callable[[int], Circuit]:
    """The search that found a circuit, with another seed. Raises UnknownName when its method is not installed."""
    method = plugins.load("methods", circuit.origin.method)
    settings = dict(circuit.origin.settings)
    if settings.get("budgets"):
        settings["budgets"] = ""  # of a family only this member is found again

    def find(seed: int) -> Circuit:
        found: Circuit = method(**{**settings, "seed": seed}).find(subject, task)
        return found

    return find


def over_prompts(circuit: Circuit, subject: Subject, scores: ByPrompt, *, draws: int = 100, seed: int = 0) -> Stability:
    """Ranked again from resampled prompts. `scores`: each prompt's own, at the sites where masks act."""
    prompts = len(next(iter(scores.values())))

    def chosen(rows: Tensor) -> Members:
        means = {site: each[rows].mean(0) for site, each in scores.items()}
        return members(matched(circuit.kept, {s: v.abs() for s, v in coarsen(subject, means, list(Kind)).items()}))

    whole = chosen(torch.arange(prompts))
    alike = [jaccard(whole, chosen(rows)) for rows in resamples(prompts, seed, draws)]
    drawn = {kind: torch.tensor([each[kind] for each in alike], dtype=torch.float64) for kind in alike[0]}
    found = {kind: estimate(values.mean(), values) for kind, values in drawn.items()}
    return Stability(
        setting=Setting.of(circuit, ""),
        over="prompts",
        method="attribution",
        runs=draws,
        jaccard={kind: each for kind, each in found.items() if each is not None},
    )


def by_prompt(panel: Panel) -> dict[Site, Float[Tensor, "prompt unit"]]:
    """Attribution scores of the discovery prompts, each prompt's own: one gate for every prompt and unit."""
    pairs, subject = panel.discovery[:RANKING], panel.subject
    reference = panel.filled(pairs)
    panel.on_step("attribution by prompt")
    total = {site: torch.zeros(len(pairs), subject.units(site.kind)) for site in reference.sites}

    def add(rows: Tensor) -> None:
        for site, slope in _slopes(subject, pairs[rows], reference, rows).items():
            total[site][rows] = slope

    batched(add, pairs.clean.lengths, panel.batch_size)
    return total


def _slopes(subject: Subject, pairs: Pairs, reference: Reference, rows: Tensor) -> dict[Site, Tensor]:
    gates = {site: torch.ones(len(rows), subject.units(site.kind), requires_grad=True) for site in reference.sites}
    with masking(subject, gates, reference(rows)):
        logits = subject.logits(pairs.clean)
    score = metrics.logit_difference(logits, pairs.right, pairs.wrong).sum()
    return dict(zip(gates, torch.autograd.grad(score, list(gates.values())), strict=True))
