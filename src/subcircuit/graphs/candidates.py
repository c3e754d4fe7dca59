"""The features that a task's prompts turn on, as one graph: what a circuit of features is chosen from.

A candidate is a feature at a position, or, where positions are not told apart, a feature anywhere. The effect of one on
another is the mean over prompts of the size of its effect in each prompt's own graph, signed as the mean effect is, so
that what changes its sign from prompt to prompt does not vanish.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from subcircuit.errors import DataError
from subcircuit.features.transcoders import Transcoders
from subcircuit.graphs.attribution import Attribution
from subcircuit.graphs.graph import Graph
from subcircuit.graphs.influence import node_influence
from subcircuit.progress import Progress, silent
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs

__all__ = ["Candidates", "candidates", "combined", "graphs_of"]


@dataclass(frozen=True)
class Candidates:
    """A graph of features, and how they do on average."""

    graph: Graph  # its features are the candidates, in its order
    by_position: bool
    positions: int  # of the prompts; 1 where they are not told apart
    sizes: tuple[int, ...]  # features of each layer's transcoder
    influence: Float[Tensor, " candidate"]  # mean over prompts
    activation: Float[Tensor, " candidate"]

    def __len__(self) -> int:
        return len(self.graph.features)

    def keep(self, chosen: Bool[Tensor, " candidate"]) -> list[Bool[Tensor, "#pos feature"]]:
        """What a choice keeps, layer by layer; no other feature is kept."""
        layers, positions, numbers = self.graph.features[chosen].unbind(1)
        found = [torch.zeros(self.positions, size, dtype=torch.bool) for size in self.sizes]
        for layer, mask in enumerate(found):
            own = layers == layer
            mask[positions[own], numbers[own]] = True
        return found

    def without(self, chosen: Bool[Tensor, " candidate"]) -> list[Bool[Tensor, "#pos feature"]]:
        """Everything but a choice, features that are no candidates included."""
        return [~mask for mask in self.keep(chosen)]


def candidates(
    subject: Subject,
    transcoders: Transcoders,
    pairs: Pairs,
    attribution: Attribution,
    *,
    by_position: bool = True,
    progress: Progress = silent,
) -> Candidates:
    """What the graphs of all pairs' clean prompts have together. Raises as `graphs_of`."""
    graphs = graphs_of(subject, transcoders, pairs, attribution, by_position=by_position, progress=progress)
    return combined(graphs, transcoders, by_position=by_position)


def graphs_of(
    subject: Subject,
    transcoders: Transcoders,
    pairs: Pairs,
    attribution: Attribution,
    *,
    by_position: bool = True,
    progress: Progress = silent,
) -> list[Graph]:
    """The graph of every pair's clean prompt, which explains its right answer against the wrong one.

    Raises DataError for prompts of different lengths where positions are told apart, or answers of several tokens.
    """
    lengths = pairs.clean.lengths.unique().tolist()
    if by_position and len(lengths) > 1:
        raise DataError(
            f"the prompts are {lengths} tokens long, and positions do not match", "--any-position, or by_position=False"
        )
    graphs = []
    for row in range(len(pairs)):
        sides = [[token for token in answers[row].tolist() if token >= 0] for answers in (pairs.right, pairs.wrong)]
        prompt = pairs.clean[[row]]
        graphs.append(attribution.graph(subject, transcoders, prompt, between=(sides[0], sides[1])))
        progress("graphs", row + 1, len(pairs))
    return graphs


def combined(graphs: Sequence[Graph], transcoders: Transcoders, *, by_position: bool = True) -> Candidates:
    """The mean of graphs of one task's prompts, features of the same name being one."""
    keys = [_keys(graph, by_position) for graph in graphs]
    features, places = torch.cat(keys).unique(dim=0, return_inverse=True)
    first, count = graphs[0], len(features)
    positions = len(first.tokens) if by_position else 1
    nodes = count + (first.layers + 1) * positions + 1
    effects, sizes_of_effects = torch.zeros(nodes, nodes), torch.zeros(nodes, nodes)
    influence, values, constants, rest = torch.zeros(4, nodes)
    for graph, own in zip(graphs, places.split([len(each) for each in keys]), strict=True):
        into = torch.cat([own, count + _later(graph, by_position)])
        both = (into[:, None].expand(-1, len(into)), into[None].expand(len(into), -1))
        effects.index_put_(both, graph.adjacency / len(graphs), accumulate=True)
        sizes_of_effects.index_put_(both, graph.adjacency.abs() / len(graphs), accumulate=True)
        for total, part in ((influence, node_influence(graph)), (constants, graph.constants), (rest, graph.rest)):
            total.index_add_(0, into, part / len(graphs))
        values.index_add_(0, own, graph.activations / len(graphs))
    joined = replace(
        first,
        adjacency=effects.sign() * sizes_of_effects,
        features=features,
        activations=values[:count],
        tokens=first.tokens if by_position else (0,),
        words=first.words if by_position else ("any",),
        labels=("right - wrong",),
        logits=torch.stack([each.logits for each in graphs]).mean(0),
        constants=constants,
        rest=rest,
        prompt=f"{len(graphs)} prompts",
        active=count,
    )
    sizes = tuple(map(len, transcoders.layers))
    return Candidates(joined, by_position, positions, sizes, influence[:count], joined.activations)


def _keys(graph: Graph, by_position: bool) -> Int[Tensor, "feature 3"]:
    found = graph.features.clone()
    if not by_position:
        found[:, 1] = 0
    return found


def _later(graph: Graph, by_position: bool) -> Int[Tensor, " node"]:
    """The places of all other nodes after the features; without positions one error a layer and one token."""
    others = graph.places[graph.error_nodes.start :, 0]
    if by_position:
        return torch.arange(len(others))
    return torch.where(others < 0, graph.layers, others + (others == graph.layers))
