"""A graph at several grains: features in groups, groups in groups, each level a fixed factor smaller than the last.

Two groups are alike when they send to the same targets and hear from the same sources: the cosine of their rows and
columns in the table of edge influences `A_ts (influence_t + w_t)`, with `A` as in `influence`. The most alike merge
first. Groups of one layer always may; once there are fewer groups than layers are asked for, those of two layers may
where no path leads from one to the other by way of a third. Every quotient is therefore acyclic, as the graph is.
Errors, tokens and targets stay by themselves.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from subcircuit.errors import UsageError
from subcircuit.graphs.graph import Graph
from subcircuit.graphs.influence import Pruned, node_influence, normalised

__all__ = ["Hierarchy", "Quotient", "coarsen", "supernodes_of", "within"]

Groups = Int[Tensor, " feature"]  # the group of each feature, from 0
NEAR = 1e-12


@dataclass(frozen=True)
class Quotient:
    """The graph between groups, then errors, tokens and targets; effects within a group are left out."""

    signed: Float[Tensor, "target source"]  # effects summed up
    absolute: Float[Tensor, "target source"]  # their sizes summed up: what cancels in `signed` counts here
    influence: Float[Tensor, "target source"]  # of the edges


@dataclass(frozen=True)
class Hierarchy:
    """Levels from the features themselves to the coarsest."""

    graph: Graph
    levels: tuple[Groups, ...]

    def __len__(self) -> int:
        return len(self.levels)

    @property
    def sizes(self) -> list[int]:
        """Groups of each level."""
        return [int(level.max()) + 1 if len(level) else 0 for level in self.levels]

    def members(self, level: int, group: int) -> Int[Tensor, " member"]:
        """The features of a group."""
        return (self.levels[level] == group).nonzero()[:, 0]

    def children(self, level: int, group: int) -> list[int]:
        """The groups of the next finer level that make up a group."""
        found: list[int] = self.levels[level - 1][self.members(level, group)].unique().tolist()
        return found

    def quotient(self, level: int) -> Quotient:
        own = torch.cat(
            [self.levels[level], self.sizes[level] + torch.arange(len(self.graph) - len(self.levels[level]))]
        )
        tables = (self.graph.adjacency, self.graph.adjacency.abs(), self.flow)
        return Quotient(*(_joined(table, own) for table in tables))

    def label(self, level: int, group: int) -> str:
        """Its layers, its most influential feature, and how many more there are."""
        members = self.members(level, group)
        layers = self.graph.features[members, 0]
        low, high = int(layers.min()), int(layers.max())
        best = int(members[self.influence[members].argmax()])
        where = f"layer {low}" if low == high else f"layers {low}-{high}"
        return f"{where}: {self.graph.name(best)}" + (f" and {len(members) - 1} more" if len(members) > 1 else "")

    @cached_property
    def influence(self) -> Float[Tensor, " node"]:
        return node_influence(self.graph)

    @cached_property
    def flow(self) -> Float[Tensor, "target source"]:
        """The influence of every edge."""
        return normalised(self.graph.adjacency) * (self.influence + self.graph.start)[:, None]


def coarsen(graph: Graph, *, factor: int = 4, smallest: int = 4) -> Hierarchy:
    """Levels of n, n / factor, n / factor^2, ... groups, rounded up, down to `smallest` or fewer.

    Raises UsageError for a factor below 2, DataError for a graph with no path to a target.
    """
    if factor < 2 or smallest < 1:
        raise UsageError(f"the factor is {factor} and the smallest level {smallest}", "give at least 2 and 1")
    count = len(graph.features)
    hierarchy = Hierarchy(graph, (torch.arange(count),))
    if not count:
        return hierarchy
    merging = _Merging(graph, hierarchy.flow)
    levels = [hierarchy.levels[0]]
    while count > smallest:
        count = -(-count // factor)
        merging.down_to(count)
        levels.append(merging.groups.clone())
    return Hierarchy(graph, tuple(levels))


def supernodes_of(graph: Graph, pruned: Pruned, most: int) -> list[tuple[str, list[int]]]:
    """The finest level of what is left of a graph with at most so many groups; groups of one feature are left out."""
    kept = pruned.nodes[graph.feature_nodes].nonzero()[:, 0]
    left = replace(graph, adjacency=graph.adjacency * pruned.edges)
    hierarchy = coarsen(within(left, kept), factor=2, smallest=1)
    level = next(index for index, size in enumerate(hierarchy.sizes) if size <= most)
    groups = range(hierarchy.sizes[level])
    found = [(hierarchy.label(level, group), kept[hierarchy.members(level, group)].tolist()) for group in groups]
    return [(label, nodes) for label, nodes in found if len(nodes) > 1]


def within(graph: Graph, features: Int[Tensor, " kept"]) -> Graph:
    """The graph with these features only, numbered anew in their order."""
    nodes = torch.cat([features, torch.arange(graph.error_nodes.start, len(graph))])
    return replace(
        graph,
        adjacency=graph.adjacency[nodes][:, nodes],
        features=graph.features[features],
        activations=graph.activations[features],
        constants=graph.constants[nodes],
        rest=graph.rest[nodes],
    )


class _Merging:
    """Groups as they merge."""

    def __init__(self, graph: Graph, flow: Tensor) -> None:
        count, others = len(graph.features), len(graph) - len(graph.features)
        self.groups = torch.arange(count)
        self.layers: Tensor | None = graph.features[:, 0].clone()  # of each group; None once groups span several
        self.flow, self.others = flow, others
        self.reach: Tensor | None = None  # of groups of several layers: reach[a, b] where a path leads from a to b

    def down_to(self, wanted: int) -> None:
        """Merge until so many groups are left."""
        if self.layers is not None and wanted >= len(self.layers.unique()):
            while (left := len(self.layers) - wanted) > 0:
                self._within_layers(left)
            return
        self.layers = None
        if self.reach is None:
            self.reach = _closure(self.flow[: self._count, : self._count].T > 0)
        while self._count > wanted:
            self._across_layers()

    @property
    def _count(self) -> int:
        return len(self.flow) - self.others

    def _within_layers(self, most: int) -> None:
        """One round: every group merges with one other of its layer at most, the most alike first."""
        assert self.layers is not None
        pairs, alike = [], []
        for layer in self.layers.unique():
            own = (self.layers == layer).nonzero()[:, 0]
            first, second = torch.triu_indices(len(own), len(own), 1).unbind()
            pairs.append(torch.stack([own[first], own[second]], 1))
            alike.append(_likeness(self._profiles(own))[first, second])
        order = torch.cat(alike).argsort(descending=True, stable=True)
        into, taken = torch.arange(self._count), torch.zeros(self._count, dtype=torch.bool)
        for one, other in torch.cat(pairs)[order].tolist():
            if most and not taken[one] and not taken[other]:
                taken[[one, other]] = True
                into[other] = one
                most -= 1
        self._merge(into)

    def _across_layers(self) -> None:
        """The two most alike of the groups that may merge."""
        assert self.reach is not None
        between = (self.reach.float() @ self.reach.float()) > 0  # a path by way of a third group
        allowed = ~(between | between.T)
        alike = _likeness(self._profiles(torch.arange(self._count))).masked_fill(~allowed, -torch.inf)
        one, other = divmod(int(alike.fill_diagonal_(-torch.inf).argmax()), self._count)
        one, other = min(one, other), max(one, other)
        into = torch.arange(self._count)
        into[other] = one
        self._merge(into)
        self.reach = _closure(self.flow[: self._count, : self._count].T > 0)

    def _profiles(self, groups: Tensor) -> Float[Tensor, "group role"]:
        """What each group hears, and what it sends."""
        return torch.cat([self.flow[groups], self.flow[:, groups].T], 1)

    def _merge(self, into: Tensor) -> None:
        names = torch.unique(into, return_inverse=True)[1]
        count = int(names.max()) + 1
        if self.layers is not None:
            self.layers = torch.zeros(count, dtype=torch.long).scatter(0, names, self.layers)
        self.groups = names[self.groups]
        self.flow = _joined(self.flow, torch.cat([names, count + torch.arange(self.others)]))


def _joined(table: Float[Tensor, "node node"], own: Int[Tensor, " node"]) -> Float[Tensor, "group group"]:
    """Rows and columns summed up by group; what passes within a group is left out."""
    size = int(own.max()) + 1
    rows = torch.zeros(size, len(table)).index_add_(0, own, table)
    return torch.zeros(size, size).index_add_(1, own, rows).fill_diagonal_(0.0)


def _likeness(profiles: Float[Tensor, "group role"]) -> Float[Tensor, "group group"]:
    unit: Tensor = profiles / profiles.norm(dim=1, keepdim=True).clamp(min=NEAR)
    return unit @ unit.T


def _closure(edges: Bool[Tensor, "source target"]) -> Bool[Tensor, "source target"]:
    """Which node leads to which."""
    reach = edges.clone()
    for middle in range(len(reach)):
        reach |= reach[:, middle, None] & reach[middle]
    return reach
