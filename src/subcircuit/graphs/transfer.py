"""Whether two models do the same in the same way: their features aligned, and the edges between aligned ones compared.

Features are aligned one to one by the correlation of their activations on shared text, the most correlated first. Of
two graphs, the best edges between aligned features are compared: their Jaccard index, beside what it is when features
of a layer are aligned at random, and when edges lie at random between the same layers. Both graphs are of features
anywhere, without positions (`candidates(..., by_position=False)`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from subcircuit.errors import DataError, UsageError
from subcircuit.features.transcoders import Transcoders
from subcircuit.graphs.candidates import Candidates
from subcircuit.graphs.coarsening import Hierarchy
from subcircuit.graphs.switching import features_on
from subcircuit.subject import Prompts, Subject

__all__ = ["Alignment", "Likeness", "activations_of", "align", "likeness"]

Edges = Bool[Tensor, "target source"]


@dataclass(frozen=True)
class Alignment:
    """Pairs of features of two graphs, the most correlated first."""

    first: Int[Tensor, " pair"]  # numbers among the candidates of each
    second: Int[Tensor, " pair"]
    correlation: Float[Tensor, " pair"]

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class Likeness:
    """The Jaccard index of two sets of edges between aligned features, beside chance."""

    jaccard: float  # 1 = the same edges
    permuted: float  # mean where features of a layer are aligned at random
    permuted_p: float  # share of those draws with an index as high, the observed one counted
    random: float  # mean where as many edges lie at random between the same layers
    random_p: float
    aligned: int  # features
    edges: tuple[int, int]  # of either graph


def activations_of(
    found: Candidates, subject: Subject, transcoders: Transcoders, prompts: Prompts, *, skip: int = 1
) -> Float[Tensor, "token candidate"]:
    """What each candidate does at every token. Raises DataError for candidates that are told apart by position."""
    if found.by_position:
        raise DataError("these candidates are features at positions", "candidates(..., by_position=False)")
    layers, _, numbers = found.graph.features.unbind(1)
    tables = features_on(subject, transcoders, prompts, skip=skip)
    return torch.cat([table[:, numbers[layers == layer]] for layer, table in enumerate(tables)], 1)


def align(first: Float[Tensor, "token one"], second: Float[Tensor, "token other"], *, least: float = 0.3) -> Alignment:
    """One to one, greedily, where the correlation is `least` or more. Raises DataError for other numbers of tokens."""
    if len(first) != len(second):
        raise DataError(
            f"{len(first)} and {len(second)} tokens are not shared text", "give both models the same tokens"
        )
    table = _standard(first).T @ _standard(second)
    ones, others, values = [], [], []
    while table.numel() and (best := float(table.max())) >= least:
        one, other = divmod(int(table.argmax()), table.shape[1])
        ones.append(one)
        others.append(other)
        values.append(best)
        table[one], table[:, other] = -torch.inf, -torch.inf
    return Alignment(torch.tensor(ones).long(), torch.tensor(others).long(), torch.tensor(values))


def likeness(
    first: Candidates,
    second: Candidates,
    alignment: Alignment,
    *,
    share: float = 0.05,
    draws: int = 1000,
    seed: int = 0,
) -> Likeness:
    """Of the `share` of edges with most influence between aligned features. Raises UsageError for no such edge."""
    one, other = (_best(each, own, share) for each, own in ((first, alignment.first), (second, alignment.second)))
    if not one.any() or not other.any():
        raise UsageError(
            f"no edge joins two of the {len(alignment)} aligned features", "lower `least`, or raise `share`"
        )
    layers = second.graph.features[alignment.second, 0]
    generator = torch.Generator().manual_seed(seed)

    def null(draw: Callable[[], Edges]) -> tuple[float, float]:
        found = torch.tensor([_jaccard(one, draw()) for _ in range(draws)])
        return float(found.mean()), (1 + int((found >= observed - 1e-9).sum())) / (draws + 1)

    def permuted() -> Edges:
        order = _within(layers, generator)
        return other[order][:, order]

    observed = _jaccard(one, other)
    shuffled, drawn = null(permuted), null(lambda: _scattered(other, layers, generator))
    return Likeness(observed, *shuffled, *drawn, len(alignment), (int(one.sum()), int(other.sum())))


def _best(found: Candidates, own: Tensor, share: float) -> Edges:
    """The edges between some candidates that have most influence."""
    flow = Hierarchy(found.graph, (torch.arange(len(found)),)).flow[own][:, own]
    there = int((flow > 0).sum())
    count = min(there, max(1, round(share * there)))
    chosen = torch.zeros(flow.numel(), dtype=torch.bool)
    return chosen.index_fill(0, flow.flatten().argsort(descending=True, stable=True)[:count], True).view_as(flow)


def _jaccard(one: Edges, other: Edges) -> float:
    return int((one & other).sum()) / int((one | other).sum())


def _within(layers: Tensor, generator: torch.Generator) -> Tensor:
    """An order that mixes features of each layer."""
    order = torch.arange(len(layers))
    for layer in layers.unique():
        own = (layers == layer).nonzero()[:, 0]
        order[own] = own[torch.randperm(len(own), generator=generator)]
    return order


def _scattered(edges: Edges, layers: Tensor, generator: torch.Generator) -> Edges:
    """As many edges between each two layers, anywhere."""
    found = torch.zeros_like(edges)
    for target in layers.unique():
        for source in layers.unique():
            places = ((layers == target)[:, None] & (layers == source)).flatten().nonzero()[:, 0]
            count = int(edges.flatten()[places].sum())
            found.view(-1)[places[torch.randperm(len(places), generator=generator)[:count]]] = True
    return found


def _standard(table: Float[Tensor, "token feature"]) -> Float[Tensor, "token feature"]:
    """Centred columns of length 1; 0 for a feature that never varies."""
    centred = table - table.mean(0)
    found: Tensor = centred / centred.norm(dim=0).clamp(min=1e-12)
    return found
