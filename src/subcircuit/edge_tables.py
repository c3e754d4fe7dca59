"""Which edges a circuit keeps: tables of readers by writers, their best edges, and what of those is connected."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.sites import Kind, Site
from subcircuit.wiring import PROJECTIONS, Wiring

__all__ = ["Edges", "best", "connected", "live_nodes", "node_paths", "node_scores", "on_paths"]

Truth = Bool[Tensor, "reader writer"]
Scores = Float[Tensor, "reader writer"]


@dataclass(frozen=True)
class Edges:
    """The edges of a circuit, and how much each is needed. Where the wiring allows no edge: score 0, not kept."""

    wiring: Wiring
    scores: Scores
    kept: Truth

    def names(self) -> Sequence[str]:
        """The kept edges as text, reader by reader."""
        return [self.wiring.name(reader, writer) for reader, writer in self.kept.nonzero().tolist()]


def best(wiring: Wiring, ranks: Scores, n: int) -> Truth:
    """The `n` edges of highest rank, connected or not; ties go to the earlier reader and writer."""
    ranks = ranks.masked_fill(~wiring.allowed, -torch.inf)
    chosen = torch.zeros(ranks.numel(), dtype=torch.bool)
    chosen[ranks.flatten().argsort(descending=True, stable=True)[: min(n, int(wiring.allowed.sum()))]] = True
    return chosen.view_as(ranks)


def connected(wiring: Wiring, kept: Truth) -> Truth:
    """The edges that lie on a path from the input to the logits: others change nothing that is judged.

    A head lives when something reads it and one of its query, key or value takes something in; the key and the value of
    a group are read by any living head of it, and where a norm joins them, by any living head of the layer.
    """
    kept = kept & wiring.allowed
    while True:
        alive = live_nodes(wiring, kept)
        readable = torch.ones(len(wiring.readers), dtype=torch.bool)
        for layer in range(wiring.layers):
            heads = alive[Site(layer, Kind.HEAD)]
            groups = heads.view(wiring.groups, -1).any(1)
            for kind, used in ((Kind.Q, heads), (Kind.K, groups), (Kind.V, groups)):
                all_bear = wiring.joined and kind is not Kind.V and bool(heads.any())
                readable[wiring.rows(Site(layer, kind))] = used | all_bear
            readable[wiring.rows(Site(layer, Kind.MLP))] = alive[Site(layer, Kind.MLP)]
        writing = torch.ones(len(wiring.writers), dtype=torch.bool)
        for site, truth in alive.items():
            writing[wiring.columns(site)] = truth
        left = kept & readable[:, None] & writing
        if torch.equal(left, kept):
            return kept
        kept = left


def live_nodes(wiring: Wiring, kept: Truth) -> dict[Site, Bool[Tensor, " unit"]]:
    """The heads and MLPs that take something in and are read by something."""
    reads, read = kept.any(1), kept.any(0)
    alive = {}
    for layer in range(wiring.layers):
        q, k, v = (reads[wiring.rows(Site(layer, kind))] for kind in PROJECTIONS)
        if wiring.joined:  # by their norm, what one query or key takes in bears on all of them
            q, k = (each.any().expand_as(each) for each in (q, k))
        takes_in = q | (k | v).repeat_interleave(wiring.heads // wiring.groups)
        head, mlp = Site(layer, Kind.HEAD), Site(layer, Kind.MLP)
        alive[head] = takes_in & read[wiring.columns(head)]
        alive[mlp] = reads[wiring.rows(mlp)] & read[wiring.columns(mlp)]
    return alive


def on_paths(wiring: Wiring, scores: Scores) -> Scores:
    """Scores by which an edge is worth no more than the rest of its best path: the soft form of `connected`.

    A path from the input to the logits is worth what its weakest edge is, an edge what the best path through it is. At
    any threshold the edges above it are what is connected of those whose own score is above it.
    """
    scores = scores.masked_fill(~wiring.allowed, -torch.inf)
    reached = _reached(wiring, scores)
    through = torch.minimum(scores, torch.minimum(reached, _useful(wiring, scores)[:, None]))
    return through.where(wiring.allowed, torch.zeros_like(scores))


def _reached(wiring: Wiring, scores: Scores) -> Float[Tensor, " writer"]:
    """The best path from the input to each writer."""
    found = scores.new_full((len(wiring.writers),), torch.inf)  # the input; the others follow in their order
    size = wiring.heads // wiring.groups

    def taken(site: Site) -> Float[Tensor, " unit"]:
        return torch.minimum(scores[wiring.rows(site)], found).amax(1)

    for layer in range(wiring.layers):
        q, k, v = (taken(Site(layer, kind)) for kind in PROJECTIONS)
        if wiring.joined:
            q, k = (each.amax().expand_as(each) for each in (q, k))
        heads = torch.maximum(q, torch.maximum(k, v).repeat_interleave(size))
        found[wiring.columns(Site(layer, Kind.HEAD))] = heads
        found[wiring.columns(Site(layer, Kind.MLP))] = taken(Site(layer, Kind.MLP))
    return found


def _useful(wiring: Wiring, scores: Scores) -> Float[Tensor, " reader"]:
    """The best path from what each reader belongs to, on to the logits."""
    found = scores.new_full((len(wiring.readers),), torch.inf)  # the logits; the others follow, the last first

    def read(site: Site) -> Float[Tensor, " unit"]:
        return torch.minimum(scores[:, wiring.columns(site)], found[:, None]).amax(0)

    for layer in reversed(range(wiring.layers)):
        found[wiring.rows(Site(layer, Kind.MLP))] = read(Site(layer, Kind.MLP))
        heads = read(Site(layer, Kind.HEAD))
        groups = heads.view(wiring.groups, -1).amax(1)
        for kind, used in ((Kind.Q, heads), (Kind.K, groups), (Kind.V, groups)):
            all_bear = wiring.joined and kind is not Kind.V
            found[wiring.rows(Site(layer, kind))] = heads.amax().expand_as(used) if all_bear else used
    return found


def node_scores(wiring: Wiring, scores: Scores) -> dict[Site, Float[Tensor, " unit"]]:
    """Of heads and MLPs, the sum over the edges that leave them: to first order, the effect of closing the node."""
    return _by_node(wiring, scores.sum(0))


def node_paths(wiring: Wiring, scores: Scores) -> dict[Site, Float[Tensor, " unit"]]:
    """Of heads and MLPs, the best edge that leaves them; of scores `on_paths`, the best path that they are on."""
    return _by_node(wiring, scores.masked_fill(~wiring.allowed, -torch.inf).amax(0))


def _by_node(wiring: Wiring, by_writer: Float[Tensor, " writer"]) -> dict[Site, Float[Tensor, " unit"]]:
    sites = [Site(layer, kind) for layer in range(wiring.layers) for kind in (Kind.HEAD, Kind.MLP)]
    return {site: by_writer[wiring.columns(site)] for site in sites}
