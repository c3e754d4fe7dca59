"""Levels of a graph: geometric, nested, acyclic, and groups that are known on drawn graphs."""

import pytest
import torch
from torch import Tensor

from hand_graphs import drawn
from subcircuit.errors import UsageError
from subcircuit.graphs.coarsening import Hierarchy, coarsen, supernodes_of
from subcircuit.graphs.graph import Graph
from subcircuit.graphs.influence import prune


def random_graph(features: int, layers: int, seed: int = 0) -> Graph:
    """Effects from every layer to every later one, most of them 0."""
    generator = torch.Generator().manual_seed(seed)
    graph = drawn(features, {}, layers=layers)
    layer = graph.places[:, 0]
    later = layer[:, None] > layer
    later[graph.error_nodes], later[graph.token_nodes] = False, False
    chosen = torch.rand(later.shape, generator=generator) < 0.3
    adjacency = torch.randn(later.shape, generator=generator) * later * chosen
    adjacency[-1, : len(graph.features)] = torch.randn(features, generator=generator)
    graph.adjacency.copy_(adjacency)
    return graph


def acyclic(effects: Tensor) -> bool:
    edges = (effects != 0).double()
    power = edges
    for _ in range(len(edges)):
        power = (power @ edges).clamp(max=1)
    return not power.any()


@pytest.mark.parametrize(("features", "layers"), [(60, 4), (37, 12), (25, 25)])
@pytest.mark.parametrize("factor", [2, 4])
def test_levels_shrink_by_the_factor_and_every_quotient_is_acyclic(features: int, layers: int, factor: int) -> None:
    found = coarsen(random_graph(features, layers), factor=factor, smallest=1)
    expected = [features]
    while expected[-1] > 1:
        expected.append(-(-expected[-1] // factor))
    assert found.sizes == expected
    for level in range(len(found)):
        assert acyclic(found.quotient(level).absolute), level


def test_levels_are_nested_and_flows_are_sums() -> None:
    graph = random_graph(40, 5)
    found = coarsen(graph, factor=3, smallest=2)
    for level in range(1, len(found)):
        of_children = [child for group in range(found.sizes[level]) for child in found.children(level, group)]
        assert sorted(of_children) == list(range(found.sizes[level - 1]))
        quotient = found.quotient(level)
        for one, other in ((0, 1), (1, 0)):
            into, out_of = found.members(level, one), found.members(level, other)
            between = graph.adjacency[into][:, out_of]
            assert float(quotient.signed[one, other]) == pytest.approx(float(between.sum()), abs=1e-5)
            assert float(quotient.absolute[one, other]) == pytest.approx(float(between.abs().sum()), abs=1e-5)
    top = found.quotient(len(found) - 1)
    to_logit = graph.adjacency[-1, : len(graph.features)].sum()
    assert float(top.signed[-1, : found.sizes[-1]].sum()) == pytest.approx(float(to_logit), abs=1e-4)


def test_features_of_like_roles_are_one_group() -> None:
    """f0 and f1 hear the token and drive f4; f2 and f3 hear the error and drive f5."""
    effects = {("t", "f0"): 1.0, ("t", "f1"): 2.0, ("e0", "f2"): 1.0, ("e0", "f3"): -1.0}
    effects |= {("f0", "f4"): 1.0, ("f1", "f4"): 1.0, ("f2", "f5"): 1.0, ("f3", "f5"): 1.0}
    graph = drawn(6, effects | {("f4", "l0"): 1.0, ("f5", "l0"): 1.0}, layers=3)
    graph.features[:, 0] = torch.tensor([1, 1, 1, 1, 2, 2])
    found = coarsen(graph, factor=2, smallest=3)
    groups = found.levels[1]
    assert found.sizes == [6, 3] and groups[0] == groups[1] and groups[2] == groups[3]
    assert len({int(groups[0]), int(groups[2])}) == 2 and groups[4] == groups[5]
    assert found.label(1, int(groups[4])) == "layer 2: 2.14@0 and 1 more"


def test_a_chain_merges_neighbours_only() -> None:
    chain = {(f"f{i}", f"f{i + 1}"): 1.0 for i in range(5)} | {("f5", "l0"): 1.0, ("t", "f0"): 1.0}
    found = coarsen(drawn(6, chain), factor=2, smallest=1)
    for level in range(1, len(found)):
        for group in range(found.sizes[level]):
            members = found.members(level, group).tolist()
            assert members == list(range(members[0], members[-1] + 1))


def test_supernodes_are_of_what_is_left() -> None:
    graph = random_graph(40, 4)
    pruned = prune(graph, nodes=0.7, edges=0.9)
    found = supernodes_of(graph, pruned, 5)
    members = [node for _, nodes in found for node in nodes]
    assert 0 < len(found) <= 5 and len(set(members)) == len(members) and all(pruned.nodes[members])
    assert all(len(nodes) > 1 for _, nodes in found)


def test_factors_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="factor is 1"):
        coarsen(random_graph(8, 2), factor=1)
    empty = drawn(0, {("t", "l0"): 1.0}, layers=1)
    assert isinstance(coarsen(empty), Hierarchy) and coarsen(empty).sizes == [0]
