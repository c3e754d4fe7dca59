"""Minimality: what the circuit loses with each of its nodes.

A node's drop is the circuit's mean logit difference minus that of the circuit without the node. It is measured by a run
for up to `exact` nodes, heads and branches before channels and neurons, those of the smallest first-order drop first:
they are the ones that may be superfluous. For all others it is estimated to first order, by the gradient of the node's
gate. Wang et al. 2022 ask every node for at least 1% of the model's score; here it is 1% of the gap between the full
model and the empty circuit.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from subcircuit import metrics
from subcircuit.batching import batched
from subcircuit.circuit import Kept, sizes, tidy
from subcircuit.evaluation.intervals import average
from subcircuit.evaluation.panel import Panel
from subcircuit.evaluation.setting import Result, Setting
from subcircuit.intervention import effective, masking
from subcircuit.scores import Estimate
from subcircuit.sites import CHILDREN, PARENT, Kind, Node, Site

__all__ = ["Drop", "Fine", "Minimality", "coarse_kinds", "inflated", "minimality"]

COARSE = (Kind.HEAD, Kind.MLP, Kind.KV, Kind.Q, Kind.K, Kind.V)
SHARE = 0.01  # of the gap: a node that is worth less is called negligible
Slopes = dict[Site, Float[Tensor, " unit"]]


class Drop(BaseModel):
    """What one node is worth to the circuit, in logits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    node: str
    first_order: float = Field(description="estimate of the drop by the gradient")
    drop: Estimate | None = Field(description="measured; null where only estimated")
    change: float | None = Field(description="mean over prompts of the absolute change; null where only estimated")


class Fine(BaseModel):
    """The nodes of a fine granularity, by first-order drop."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kept: int
    negligible: int = Field(description="whose drop is below 1% of the gap")
    share: float = Field(description="of the gap, that the negligible ones are worth together")


class Minimality(Result):
    """Every coarse node of the circuit, the fine ones that were measured, and the rest in numbers."""

    bar: float = Field(description="1% of the gap between full model and empty circuit, in logits")
    nodes: list[Drop]
    fine: dict[str, Fine]

    @property
    def negligible(self) -> list[str]:
        """Nodes whose drop is below the bar; measured drops where there are some."""
        return [each.node for each in self.nodes if (each.drop.mean if each.drop else each.first_order) < self.bar]


def minimality(panel: Panel, exact: int = 32) -> Minimality:
    """One backward pass over all prompts, and one run for each of `exact` nodes."""
    circuit, slopes = panel.circuit, _slopes(panel)
    coarse = coarse_kinds(circuit.kept)
    kinds = [kind for kind in sizes(circuit.kept) if kind in coarse or kind not in (Kind.BLOCK, Kind.ATTN)]
    expected = {kind: _first_order(panel, slopes, kind) for kind in kinds}
    nodes = sorted((abs(value), node) for kind in coarse for node, value in expected[kind].items())
    fine = sorted(
        (abs(value), node) for kind in expected if kind not in coarse for node, value in expected[kind].items()
    )
    measured = [node for _, node in [*nodes, *fine][:exact]]
    listed = [*(node for _, node in nodes), *measured[len(nodes) :]]
    bar = SHARE * abs(panel.gap)
    return Minimality(
        setting=Setting.of(circuit, "outside the circuit, and one node of it"),
        bar=bar,
        nodes=[_drop(panel, node, expected[node.site.kind][node], measured) for node in sorted(listed)],
        fine={str(kind): _fine(list(expected[kind].values()), bar) for kind in expected if kind not in coarse},
    )


def inflated(panel: Panel, draws: int = 50) -> Float[Tensor, " draw"]:
    """Mean absolute changes by random coarse nodes outside the circuit, each opened in it with all it holds."""
    kept = panel.circuit.kept
    outside = [
        Node(site, unit)
        for site in sorted(kept)
        if site.kind in coarse_kinds(kept)
        for unit in (~kept[site]).nonzero()[:, 0].tolist()
    ]
    order = torch.randperm(len(outside), generator=torch.Generator().manual_seed(panel.seed))[:draws]
    found = []
    for index in order.tolist():
        node = outside[index]
        more = panel.run(f"circuit and {node}", _opened(kept, node))["logit_difference"]
        found.append((more - panel.chosen["logit_difference"]).abs().mean())
    return torch.stack(found) if found else torch.zeros(0)


def coarse_kinds(kept: Kept) -> list[Kind]:
    """The kinds of a circuit that are tried one by one: heads, MLPs and projections, else what there is."""
    kinds = list(dict.fromkeys(site.kind for site in kept))
    coarse = [kind for kind in kinds if kind in COARSE or (kind is Kind.ATTN and Kind.HEAD not in kinds)]
    return coarse or kinds


def _slopes(panel: Panel) -> Slopes:
    """The gradient of the circuit's mean logit difference where masks act."""
    masks = {site: kept.float().requires_grad_() for site, kept in panel.inner.items()}
    total = {site: torch.zeros(mask.shape) for site, mask in masks.items()}
    pairs = panel.pairs
    panel.on_step("first-order drops")

    def add(rows: Tensor) -> None:
        with masking(panel.subject, masks, panel.reference(rows)):
            logits = panel.subject.logits(pairs.clean[rows])
        part = pairs[rows]
        mean = metrics.logit_difference(logits, part.right, part.wrong).sum() / len(pairs)
        for site, slope in zip(masks, torch.autograd.grad(mean, list(masks.values())), strict=True):
            total[site] += slope

    batched(add, pairs.clean.lengths, panel.batch_size)
    return total


def _first_order(panel: Panel, slopes: Slopes, kind: Kind) -> dict[Node, float]:
    """Kept nodes of a kind with the sum of slopes over all that closing them closes."""
    found = {}
    for node in panel.circuit.nodes(kind):
        if node.site in panel.inner:  # masks act right here
            found[node] = float(slopes[node.site][node.unit] * panel.inner[node.site][node.unit])
            continue
        layer = {site: kept for site, kept in panel.circuit.kept.items() if site.layer == node.site.layer}
        after = effective(panel.subject, {site: kept.float() for site, kept in _closed(layer, node).items()})
        found[node] = sum(float((slopes[site] * (panel.inner[site].float() - after[site])).sum()) for site in after)
    return found


def _drop(panel: Panel, node: Node, first_order: float, measured: Sequence[Node]) -> Drop:
    if node not in measured:
        return Drop(node=str(node), first_order=first_order, drop=None, change=None)
    less = panel.run(f"circuit without {node}", _closed(panel.circuit.kept, node))["logit_difference"]
    lost = (panel.chosen["logit_difference"] - less).double()
    drop = average(lost, panel.seed)
    return Drop(node=str(node), first_order=first_order, drop=drop, change=float(lost.abs().mean()))


def _fine(drops: Sequence[float], bar: float) -> Fine:
    small = [drop for drop in drops if drop < bar]
    return Fine(kept=len(drops), negligible=len(small), share=SHARE * sum(small) / bar if bar else 0.0)


def _closed(kept: Kept, node: Node) -> Kept:
    """Without one node; parents stay open, so that only the node's own part is lost."""
    changed = {site: truth.clone() for site, truth in kept.items()}
    changed[node.site][node.unit] = False
    return changed


def _opened(kept: Kept, node: Node) -> Kept:
    """With one node more, all that it holds, and its parents."""
    changed = {site: truth.clone() for site, truth in kept.items()}
    changed[node.site][node.unit] = True
    inside, units = [node.site.kind], len(changed[node.site])
    for kind in inside:
        for child in (each for each in CHILDREN.get(kind, ()) if Site(node.site.layer, each) in changed):
            inside.append(child)
            part = changed[Site(node.site.layer, child)].view(units, -1)
            part[node.unit] = True
    kind = node.site.kind
    while kind in PARENT:
        kind = PARENT[kind]
        if Site(node.site.layer, kind) in changed:
            changed[Site(node.site.layer, kind)][:] = True
    return tidy(changed)
