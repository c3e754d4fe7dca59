"""Overlaps counted by hand, ranks by definition, chance by listing every set, intervals by resampling unit by unit."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edge_circuits import SMALL, circuit_of
from subcircuit.circuit import Circuit
from subcircuit.edge_tables import Edges
from subcircuit.errors import DataError
from subcircuit.evaluation.overlap import by_chance, overlap, spearman
from subcircuit.sites import Kind, Site
from subcircuit.wiring import Wiring
from tiny_circuit import ORIGIN

HEADS = [Site(layer, Kind.HEAD) for layer in range(2)]
VALUES = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=12)


EFFECTS = {"rank": "magnitude"}  # the settings of a method whose scores are effects


def heads(kept: list[int], scores: list[float] | None = None, per_layer: int = 4, **settings: str) -> Circuit:
    """Two layers of heads, those in `kept` counted through both layers."""
    truth = torch.zeros(2 * per_layer, dtype=torch.bool)
    truth[kept] = True
    values = truth.float() if scores is None else torch.tensor(scores)
    tables = [dict(zip(HEADS, table.split(per_layer), strict=True)) for table in (values, truth)]
    return Circuit(tables[0], tables[1], ORIGIN.model_copy(update={"settings": settings}))


def test_sets_are_counted_and_named() -> None:
    found = overlap(heads([0, 1, 4]), heads([1, 4, 6, 7]), names=True)["head"]
    assert (found.total, found.both, found.only_first, found.only_second) == (8, 2, 1, 2)
    assert found.jaccard is not None and found.jaccard.mean == pytest.approx(2 / 5)
    assert found.jaccard.low < 2 / 5 < found.jaccard.high
    assert found.names is not None
    assert found.names.both == ["0.head.1", "1.head.0"]
    assert (found.names.only_first, found.names.only_second) == (["0.head.0"], ["1.head.2", "1.head.3"])


def test_the_same_circuit_is_alike_without_doubt_and_an_empty_one_has_no_jaccard() -> None:
    same = overlap(heads([0, 5]), heads([0, 5]))["head"]
    assert same.jaccard is not None
    assert (same.jaccard.mean, same.jaccard.low, same.jaccard.high) == (1, 1, 1)
    assert same.names is None
    nothing = overlap(heads([]), heads([]))["head"]
    assert (nothing.jaccard, nothing.by_chance, nothing.both) == (None, None, 0)


def test_the_interval_is_that_of_units_drawn_one_by_one() -> None:
    a, b = (torch.zeros(200, dtype=torch.bool) for _ in range(2))
    a[:60], b[30:110] = True, True
    rows = torch.randint(200, (20000, 200), generator=torch.Generator().manual_seed(1))
    drawn = (a & b)[rows].sum(1) / (a | b)[rows].sum(1)
    low, high = drawn.quantile(torch.tensor([0.025, 0.975])).tolist()
    indices = [each.nonzero()[:, 0].tolist() for each in (a, b)]
    found = overlap(*(heads(kept, per_layer=100) for kept in indices), draws=20000)["head"].jaccard
    assert found is not None and found.mean == pytest.approx(30 / 110)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)


@pytest.mark.parametrize(("first", "second", "total"), [(2, 3, 6), (0, 2, 4), (4, 3, 5), (5, 5, 5), (1, 1, 2)])
def test_chance_is_the_mean_over_all_sets_of_the_sizes(first: int, second: int, total: int) -> None:
    fixed = set(range(first))
    every = [len(fixed & {*other}) / len(fixed | {*other}) for other in combinations(range(total), second)]
    assert by_chance(first, second, total) == pytest.approx(sum(every) / len(every))


def test_chance_of_many_nodes_is_a_number() -> None:
    found = by_chance(40_000, 60_000, 1_600_000)  # 1,500 shared on average
    assert found == pytest.approx(1500 / 98_500, rel=1e-2)


def test_spearman_of_a_textbook() -> None:
    assert spearman(_row(1, 2, 3, 4, 5), _row(5, 6, 7, 8, 7)) == pytest.approx(0.8207826816681233)
    assert spearman(_row(1, 2, 3), _row(1, 8, 27)) == pytest.approx(1)
    assert spearman(_row(1, 2, 3), _row(0, -1, -5)) == pytest.approx(-1)
    assert spearman(_row(1, 1, 1), _row(1, 2, 3)) is None


@given(VALUES)
def test_equal_scores_share_the_mean_of_their_ranks(values: list[tuple[int, int]]) -> None:
    a, b = (list(column) for column in zip(*values, strict=True))
    ranks = torch.tensor([_ranks(a), _ranks(b)], dtype=torch.float64)
    found = spearman(_row(*a), _row(*b))
    if len({*a}) == 1 or len({*b}) == 1:
        assert found is None
    else:
        assert found == pytest.approx(float(torch.corrcoef(ranks)[0, 1]), abs=1e-9)


def test_signs_count_in_one_correlation_and_not_in_the_other() -> None:
    values = [-4.0, 3.0, 2.0, 1.0, 0.5, 0.25, 0.125, 0.0]
    magnitudes = heads([0], [abs(value) for value in values])
    found = overlap(heads([0], values, **EFFECTS), magnitudes)["head"]
    assert found.spearman is not None and found.spearman < 0.5
    assert found.spearman_magnitude == pytest.approx(1)


def test_a_gate_far_below_zero_is_not_large() -> None:
    gates = [-6.0, -5.0, -4.0, -3.0, 1.0, 2.0, 3.0, 4.0]
    found = overlap(heads([4], gates), heads([4], [1, 2, 3, 4, -5, -6, -7, -8], **EFFECTS))["head"]
    assert found.spearman_magnitude == pytest.approx(1)


def test_edges_are_counted_where_there_can_be_any() -> None:
    a, b = (torch.zeros_like(SMALL.allowed) for _ in range(2))
    for table, names in ((a, ["input->0.q.0", "0.head.0->logits"]), (b, ["input->0.q.0", "0.mlp->logits"])):
        for name in names:
            table[SMALL.parse(name)] = True
    first, second = (circuit_of(Edges(SMALL, SMALL.allowed.float(), kept)) for kept in (a, b))
    found = overlap(first, second, names=True)
    assert list(found) == ["mlp", "head", "edge"]
    edges = found["edge"]
    assert edges.total == int(SMALL.allowed.sum())
    assert (edges.both, edges.only_first, edges.only_second) == (1, 1, 1)
    assert edges.names is not None and edges.names.only_first == ["0.head.0->logits"]
    assert edges.spearman is None  # all edges have one score


def test_kinds_of_one_circuit_only_are_left_out() -> None:
    more = heads([0])
    more = Circuit({**more.scores, Site(0, Kind.MLP): torch.ones(1)}, {**more.kept, Site(0, Kind.MLP): _on()}, ORIGIN)
    assert list(overlap(more, heads([0]))) == ["head"]


@pytest.mark.parametrize("other", [heads([0], per_layer=2), heads([0], per_layer=8)])
def test_models_of_other_shapes_are_refused_with_both_shapes(other: Circuit) -> None:
    with pytest.raises(DataError, match=r"planted has 2 layers, 4 head each; planted has 2 layers, [28] head each"):
        overlap(heads([0]), other)


def test_another_graph_of_edges_is_refused() -> None:
    graphs = [Wiring(1, 2, 1), Wiring(1, 2, 2)]
    first, second = (circuit_of(Edges(wiring, wiring.allowed.float(), wiring.allowed)) for wiring in graphs)
    with pytest.raises(DataError, match=r"groups=1.*groups=2"):
        overlap(first, second)


def _row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def _ranks(values: list[int]) -> list[float]:
    return [sum(other < each for other in values) + (values.count(each) + 1) / 2 for each in values]


def _on() -> Tensor:
    return torch.ones(1, dtype=torch.bool)
