"""Which nodes and edges of a graph matter, by circuit-tracer's definitions (Ameisen et al. 2025).

With `A` the absolute effects, each target's row divided by its sum, and `w` the weights of the targets, the influence
of all nodes is `w A + w A^2 + ...`: what reaches the targets over every path. The sum ends, for a graph has no cycles.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.errors import DataError, UsageError
from subcircuit.graphs.graph import Graph

__all__ = ["Pruned", "Quality", "cumulative", "influence", "node_influence", "normalised", "prune", "quality"]

Matrix = Float[Tensor, "target source"]
TINY = 1e-10  # below this a row has no input to speak of


@dataclass(frozen=True)
class Pruned:
    """What is left of a graph."""

    nodes: Bool[Tensor, " node"]
    edges: Bool[Tensor, "node node"]
    cumulative: Float[Tensor, " node"]  # share of all influence that more influential nodes and this one have


@dataclass(frozen=True)
class Quality:
    """How much of the model a graph explains by features, 0 to 1."""

    replacement: float  # of the influence that starts at a token or an error, the tokens' share
    completeness: float  # of each node's inputs, the share that is no error, weighted by influence


def normalised(adjacency: Matrix) -> Matrix:
    """Absolute effects, each row divided by its sum; a row without inputs stays 0."""
    found = adjacency.abs()
    return found / found.sum(1, keepdim=True).clamp(min=TINY)


def influence(shares: Matrix, start: Float[Tensor, " node"]) -> Float[Tensor, " node"]:
    """`start A + start A^2 + ...`. Raises DataError for a graph with a cycle."""
    total, step = torch.zeros_like(start), start
    for _ in range(len(shares) + 1):
        step = step @ shares
        if not step.any():
            return total
        total = total + step
    raise DataError("the graph has a cycle, and influence goes round in it for ever", "give the graph of one prompt")


def node_influence(graph: Graph) -> Float[Tensor, " node"]:
    """Of every node of a graph. Raises DataError when no path leads to a target."""
    found = influence(normalised(graph.adjacency), graph.start)
    if not found.any():
        raise DataError(
            f"no path leads to a target ({', '.join(graph.labels)}): its row has no effect in it",
            "give other targets, or check the transcoders",
        )
    return found


def prune(graph: Graph, *, nodes: float = 0.8, edges: float = 0.98) -> Pruned:
    """Keep the nodes, then the edges among them, that have this share of the influence; tokens and targets stay.

    Features without an input or an output left, and errors without an output, go, until none is left. Raises
    UsageError for shares out of range.
    """
    for what, share in (("nodes", nodes), ("edges", edges)):
        if not 0 <= share <= 1:
            raise UsageError(f"the share of {what} is {share}", "give a number from 0 to 1")
    found = node_influence(graph)
    kept = found >= _bound(found, nodes)
    kept[graph.token_nodes.start :] = True
    left = normalised(graph.adjacency * kept * kept[:, None])
    scores = left * (influence(left, graph.start) + graph.start)[:, None]
    links = scores >= _bound(scores.flatten(), edges)
    inner, own = slice(0, graph.token_nodes.start), graph.feature_nodes
    while True:
        links &= kept & kept[:, None]
        before = kept.clone()
        kept[inner] &= links[:, inner].any(0)
        kept[own] &= links[own].any(1)
        if kept.equal(before):
            return Pruned(kept, links, cumulative(found))


def quality(graph: Graph) -> Quality:
    """Replacement and completeness scores of the whole graph. Raises DataError when no path leads to a target."""
    shares, found = normalised(graph.adjacency), node_influence(graph)
    tokens, errors = (float(found[part].sum()) for part in (graph.token_nodes, graph.error_nodes))
    weights = found + graph.start
    explained = 1 - shares[:, graph.error_nodes].sum(1)
    return Quality(
        replacement=tokens / (tokens + errors) if tokens + errors else 0.0,
        completeness=float((explained * weights).sum() / weights.sum()),
    )


def cumulative(scores: Float[Tensor, " item"]) -> Float[Tensor, " item"]:
    """Of each item the share of the sum that the greater ones and itself have."""
    ordered = scores.sort(descending=True, stable=True)
    shares = ordered.values.double().cumsum(0) / scores.double().sum()
    return torch.zeros_like(scores).scatter(0, ordered.indices, shares.to(scores.dtype))


def _bound(scores: Float[Tensor, " item"], share: float) -> Tensor:
    """The score of the last item that is needed for this share of their sum; never 0, which absent edges have."""
    ordered = scores.sort(descending=True).values.double()
    if not ordered[0] > 0:
        return torch.full((), torch.inf)
    needed = int(torch.searchsorted(ordered.cumsum(0) / ordered.sum(), share))
    last = max(int((ordered > 0).sum()) - 1, 0)
    return ordered[min(needed, last)].to(scores.dtype)
