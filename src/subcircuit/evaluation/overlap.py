"""Two circuits of one model, kind by kind: what both keep, and whether they rank alike.

Jaccard is what both keep over what either keeps. Its interval resamples units: it says how much hangs on single ones,
not what other prompts or seeds would give (`stability` does). Beside it stands what two sets of the same sizes have on
average when they are drawn at random, `E[k / (a + b - k)]` with k hypergeometric; kinds that nest in one another are
drawn as if they did not. Rankings are compared by Spearman's rho, where equal scores share the mean of their ranks.
Scores that are effects are compared by magnitude as well; a gate's sign says open or closed, and it stays.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from subcircuit.circuit import EDGE, Circuit
from subcircuit.edge_tables import Edges
from subcircuit.errors import DataError
from subcircuit.evaluation.intervals import estimate
from subcircuit.evaluation.ranking import effects
from subcircuit.evaluation.stability import jaccard
from subcircuit.scores import Estimate
from subcircuit.sites import Kind, Node, Site

__all__ = ["Names", "Overlap", "by_chance", "overlap", "spearman"]

Truth = Bool[Tensor, " unit"]
Scores = Float[Tensor, " unit"]


class Names(BaseModel):
    """Nodes, such as 9.head.6, or edges, such as 3.head.7->5.q.2."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    both: list[str]
    only_first: list[str]
    only_second: list[str]


class Overlap(BaseModel):
    """What two circuits share of one kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    total: int = Field(description="nodes of this kind in the model, or edges of its graph")
    both: int
    only_first: int
    only_second: int
    jaccard: Estimate | None = Field(
        description="1 = the same, 0 = nothing in common; null where neither keeps anything"
    )
    by_chance: float | None = Field(description="mean Jaccard of two random sets of the same sizes")
    spearman: float | None = Field(description="of the scores; null where either circuit scores all of them alike")
    spearman_magnitude: float | None = Field(
        description="the same with effects by magnitude; gates and lots, which are no effects, as they are"
    )
    names: Names | None = Field(default=None, description="null unless asked for")


@dataclass(frozen=True)
class Part:
    """One kind of a circuit, its units in one row."""

    kept: Truth
    scores: Scores
    magnitudes: Scores
    names: Callable[[Truth], list[str]]


def overlap(
    first: Circuit, second: Circuit, *, draws: int = 1000, seed: int = 0, names: bool = False
) -> dict[str, Overlap]:
    """Every kind that both circuits have, edges among them.

    Raises DataError when the circuits' models differ in layers, or in the number of units of such a kind.
    """
    parts, others = _parts(first), _parts(second)
    kinds = [kind for kind in parts if kind in others]
    _require_one_shape(first, second, kinds)
    return {kind: _overlap(parts[kind], others[kind], draws, seed, names) for kind in kinds}


def by_chance(first: int, second: int, total: int) -> float | None:
    """The mean Jaccard of two random sets of these sizes; None where both are empty."""
    if not first + second:
        return None
    shared = torch.arange(max(0, first + second - total), min(first, second) + 1, dtype=torch.float64)
    weight = _log_choose(first, shared) + _log_choose(total - first, second - shared)
    return float((weight.softmax(0) * shared / (first + second - shared)).sum())


def spearman(a: Scores, b: Scores) -> float | None:
    """The correlation of ranks, -1 to 1; None where either side is all ties."""
    ranks = torch.stack([_ranks(a), _ranks(b)])
    ranks = ranks - ranks.mean(1, keepdim=True)
    spread = ranks.square().sum(1).prod().sqrt()
    return float(ranks.prod(0).sum() / spread) if spread > 0 else None


def _overlap(a: Part, b: Part, draws: int, seed: int, names: bool) -> Overlap:
    shared, either, total = int((a.kept & b.kept).sum()), int((a.kept | b.kept).sum()), len(a.kept)
    alike = torch.tensor(jaccard({"": a.kept}, {"": b.kept})[""], dtype=torch.float64)
    return Overlap(
        total=total,
        both=shared,
        only_first=int((a.kept & ~b.kept).sum()),
        only_second=int((b.kept & ~a.kept).sum()),
        jaccard=estimate(alike, _resampled(shared, either, total, draws, seed)) if either else None,
        by_chance=by_chance(int(a.kept.sum()), int(b.kept.sum()), total),
        spearman=spearman(a.scores, b.scores),
        spearman_magnitude=spearman(a.magnitudes, b.magnitudes),
        names=_names(a, b) if names else None,
    )


def _names(a: Part, b: Part) -> Names:
    return Names(
        both=a.names(a.kept & b.kept), only_first=a.names(a.kept & ~b.kept), only_second=a.names(b.kept & ~a.kept)
    )


def _resampled(shared: int, either: int, total: int, draws: int, seed: int) -> Float[Tensor, " draw"]:
    """Jaccard of units drawn with replacement; only how many fall into either and into both circuits matters."""
    generator = torch.Generator().manual_seed(seed)
    ones = torch.ones(draws, dtype=torch.float64)
    in_either: Tensor = torch.binomial(ones * total, ones * either / total, generator)
    return torch.binomial(in_either, ones * shared / either, generator) / in_either


def _ranks(values: Scores) -> Float[Tensor, " unit"]:
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    ranks: Tensor = count.cumsum(0).double() - (count.double() - 1) / 2
    return ranks[place]


def _log_choose(n: int, k: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Up to what k does not change."""
    return -torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def _parts(circuit: Circuit) -> Mapping[str, Part]:
    """Kind by kind, in the order in which kinds are told."""
    parts: dict[str, Part] = {}
    for kind in (kind for kind in Kind if any(site.kind is kind for site in circuit.kept)):
        sites = sorted(site for site in circuit.kept if site.kind is kind)
        kept = torch.cat([circuit.kept[site] for site in sites])
        scores = torch.cat([circuit.scores[site].float() for site in sites])
        magnitudes = scores.abs() if effects(circuit) else scores
        parts[str(kind)] = Part(kept, scores, magnitudes, partial(_nodes, sites, len(circuit.kept[sites[0]])))
    return parts | ({EDGE: _edges(circuit.edges, effects(circuit))} if circuit.edges is not None else {})


def _nodes(sites: Sequence[Site], units: int, chosen: Truth) -> list[str]:
    return [str(Node(sites[place // units], place % units)) for place in chosen.nonzero()[:, 0].tolist()]


def _edges(edges: Edges, signed: bool) -> Part:
    """The edges that the wiring allows."""
    places = edges.wiring.allowed.nonzero()

    def names(chosen: Truth) -> list[str]:
        return [edges.wiring.name(reader, writer) for reader, writer in places[chosen].tolist()]

    reader, writer = places.unbind(1)
    scores = edges.scores[reader, writer].float()
    return Part(edges.kept[reader, writer], scores, scores.abs() if signed else scores, names)


def _require_one_shape(first: Circuit, second: Circuit, kinds: list[str]) -> None:
    """Raise DataError, showing the shapes, where units with the same name are not the same."""
    shapes = [_shape(circuit, kinds) for circuit in (first, second)]
    if shapes[0] != shapes[1]:
        told = [
            f"{circuit.origin.model} has {', '.join(dict.fromkeys(shape))}"
            for circuit, shape in zip((first, second), shapes, strict=True)
        ]
        raise DataError(
            f"the circuits are of models of different shapes: {'; '.join(told)}", "compare circuits of one model"
        )


def _shape(circuit: Circuit, kinds: list[str]) -> list[str]:
    units = {(site.kind, len(kept)) for site, kept in circuit.kept.items() if site.kind in kinds}
    layers = 1 + max(site.layer for site in circuit.kept)
    nodes = [f"{layers} layers", *(f"{count} {kind} each" for kind, count in sorted(units))]
    return [*nodes, str(circuit.edges.wiring)] if circuit.edges and EDGE in kinds else nodes
