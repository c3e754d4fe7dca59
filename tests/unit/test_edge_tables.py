"""Tables of edges: the best, the connected, and what a circuit's files keep of them. Graphs small enough to draw."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from subcircuit.circuit import Circuit, Origin
from subcircuit.edge_tables import Edges, best, connected, live_nodes, node_paths, node_scores, on_paths
from subcircuit.errors import DataError
from subcircuit.wiring import Wiring

WIRING = Wiring(layers=2, heads=2, groups=1)


# -- the best ----------------------------------------------------------------------------------------------------------


def test_the_best_edges_are_those_of_highest_rank() -> None:
    ranks = torch.zeros(WIRING.allowed.shape)
    wanted = ["input->0.mlp", "1.mlp->logits", "0.head.1->1.q.0"]
    for rank, name in enumerate(wanted):
        ranks[WIRING.parse(name)] = 3.0 - rank
    assert _names(best(WIRING, ranks, 2)) == {"input->0.mlp", "1.mlp->logits"}
    assert _names(best(WIRING, ranks, 3)) == set(wanted)
    assert _names(best(WIRING, -ranks, 36 - 3)) == _names(WIRING.allowed) - set(wanted)


def test_ties_go_to_the_earlier_and_nothing_but_edges_is_chosen() -> None:
    ranks = torch.full(WIRING.allowed.shape, -5.0).masked_fill(~WIRING.allowed, 9.0)
    chosen = [best(WIRING, ranks, n) for n in range(38)]
    assert [int(truth.sum()) for truth in chosen] == [*range(37), 36]
    in_order = WIRING.allowed.nonzero().tolist()
    assert all(truth.nonzero().tolist() == in_order[:n] for n, truth in enumerate(chosen))


# -- the connected -----------------------------------------------------------------------------------------------------

LINE = {"input->0.v.0", "0.head.1->1.mlp", "1.mlp->logits"}


@pytest.mark.parametrize(
    ("kept", "left"),
    [
        ({"input->logits"}, {"input->logits"}),
        (LINE, LINE),
        (LINE - {"1.mlp->logits"}, set()),
        (LINE - {"0.head.1->1.mlp"}, set()),
        (LINE - {"input->0.v.0"}, set()),
        (LINE | {"0.mlp->1.q.1"}, LINE),  # nothing reads 1.head.1, and 0.mlp reads nothing
        (LINE | {"input->0.q.1"}, LINE | {"input->0.q.1"}),
        (LINE | {"input->0.q.0"}, LINE),  # the other query head is read by nothing
        (LINE | {"input->0.k.0"}, LINE | {"input->0.k.0"}),  # shared by both heads
        (LINE | {"0.head.0->logits"}, LINE | {"0.head.0->logits"}),  # it lives by the shared value
        ({"input->0.q.0", "0.head.0->logits"}, {"input->0.q.0", "0.head.0->logits"}),
        ({"input->0.q.0", "0.head.1->logits"}, set()),
        ({"0.head.0->0.mlp", "0.mlp->1.v.0", "1.head.0->1.mlp", "1.mlp->logits"}, set()),  # from nowhere
    ],
)
def test_what_is_connected_lies_on_a_path_from_input_to_logits(kept: set[str], left: set[str]) -> None:
    assert _names(connected(WIRING, _table(kept))) == left


@pytest.mark.parametrize(
    ("kept", "left"),
    [
        ({"input->0.q.0", "0.head.1->logits"}, {"input->0.q.0", "0.head.1->logits"}),
        (LINE | {"input->0.q.0"}, LINE | {"input->0.q.0"}),
        (LINE | {"0.mlp->1.q.1"}, LINE),
    ],
)
def test_under_a_norm_over_all_heads_every_query_bears_on_all(kept: set[str], left: set[str]) -> None:
    assert _names(connected(replace(WIRING, joined=True), _table(kept))) == left


def test_the_whole_graph_is_connected_and_the_empty_one_is_empty() -> None:
    assert torch.equal(connected(WIRING, torch.ones_like(WIRING.allowed)), WIRING.allowed)
    assert not connected(WIRING, torch.zeros_like(WIRING.allowed)).any()


@pytest.mark.parametrize("seed", range(5))
def test_connecting_again_changes_nothing_and_more_edges_never_connect_fewer(seed: int) -> None:
    wiring = Wiring(3, 4, 2)
    ranks = torch.rand(wiring.allowed.shape, generator=torch.Generator().manual_seed(seed))
    few, many = (connected(wiring, best(wiring, ranks, n)) for n in (25, 60))
    assert torch.equal(connected(wiring, many), many)
    assert (few <= many).all()


def test_live_nodes_take_something_in_and_are_read() -> None:
    alive = live_nodes(WIRING, _table(LINE | {"0.head.0->1.k.0"}))
    found = {str(site): truth.tolist() for site, truth in alive.items()}
    assert found == {"0.head": [True, True], "0.mlp": [False], "1.head": [False, False], "1.mlp": [True]}


def test_a_nodes_score_is_the_sum_over_the_edges_that_leave_it() -> None:
    scores = torch.zeros(WIRING.allowed.shape)
    known = {"0.head.1->0.mlp": 1.0, "0.head.1->logits": -3.0, "0.mlp->1.q.1": 4.0, "input->0.q.0": 9.0}
    for name, score in known.items():
        scores[WIRING.parse(name)] = score
    found = {str(site): score.tolist() for site, score in node_scores(WIRING, scores).items()}
    assert found == {"0.head": [0.0, -2.0], "0.mlp": [4.0], "1.head": [0.0, 0.0], "1.mlp": [0.0]}


# -- paths -------------------------------------------------------------------------------------------------------------


def test_an_edge_is_worth_no_more_than_the_rest_of_its_best_path() -> None:
    """Two ways from the input through 0.head.1 to the logits, and one edge that nothing reads."""
    known = {
        "input->0.v.0": 5.0,  # read by both heads
        "0.head.1->1.mlp": 4.0,
        "1.mlp->logits": 3.0,
        "0.head.1->logits": 2.0,
        "input->1.k.0": 9.0,  # neither head of its layer is read
        "0.mlp->logits": 9.0,  # 0.mlp takes nothing in
    }
    worth = on_paths(WIRING, _scored(known))
    expected = {"input->0.v.0": 3.0, "0.head.1->1.mlp": 3.0, "1.mlp->logits": 3.0, "0.head.1->logits": 2.0}
    assert _over(worth, 0) == expected


def test_a_key_is_worth_what_the_best_head_of_its_group_is() -> None:
    known = {"input->0.q.0": 4.0, "input->0.k.0": 8.0, "0.head.0->logits": 3.0, "0.head.1->logits": 6.0}
    expected = {"input->0.q.0": 3.0, "input->0.k.0": 6.0, "0.head.0->logits": 3.0, "0.head.1->logits": 6.0}
    assert _over(on_paths(WIRING, _scored(known)), 0) == expected


def test_under_a_norm_over_all_heads_a_query_is_worth_what_the_best_head_is() -> None:
    known = {"input->0.q.0": 4.0, "0.head.1->logits": 6.0}
    assert _over(on_paths(WIRING, _scored(known)), 0) == {}
    expected = {"input->0.q.0": 4.0, "0.head.1->logits": 4.0}
    assert _over(on_paths(replace(WIRING, joined=True), _scored(known)), 0) == expected


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_at_any_threshold_what_is_worth_more_is_what_is_connected(joined: bool, parallel: bool, seed: int) -> None:
    wiring = Wiring(3, 4, 2, parallel, joined)
    scores = torch.randn(wiring.allowed.shape, generator=torch.Generator().manual_seed(seed))
    worth = on_paths(wiring, scores)
    for threshold in scores[wiring.allowed].quantile(torch.linspace(0, 1, 30)):
        assert torch.equal((worth >= threshold) & wiring.allowed, connected(wiring, scores >= threshold))
    assert not worth[~wiring.allowed].any()


def test_a_node_is_worth_its_best_edge() -> None:
    found = node_paths(WIRING, _scored({"0.head.1->0.mlp": 2.0, "0.head.1->logits": 3.0, "0.mlp->1.q.1": 4.0}))
    assert {str(site): score.tolist() for site, score in found.items()} == {
        "0.head": [-1.0, 3.0],
        "0.mlp": [4.0],
        "1.head": [-1.0, -1.0],
        "1.mlp": [-1.0],
    }


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_circuit_of_edges_comes_back_as_it_was(tmp_path: Path) -> None:
    circuit = _circuit()
    circuit.save(tmp_path)
    found = Circuit.load(tmp_path)
    assert found.edges is not None and circuit.edges is not None
    assert found.edges.wiring == WIRING
    assert torch.equal(found.edges.kept, circuit.edges.kept)
    assert torch.equal(found.edges.scores, circuit.edges.scores)
    assert (found.sizes["edge"].kept, found.sizes["edge"].total) == (3, 36)
    assert all(torch.equal(found.kept[site], truth) for site, truth in circuit.kept.items())
    assert set(found.scores) == set(circuit.scores)


def test_files_name_edges_as_people_do(tmp_path: Path) -> None:
    _circuit().save(tmp_path)
    data = json.loads((tmp_path / "circuit.json").read_text())
    assert data["edges"] == ["input->0.v.0", "0.head.1->1.mlp", "1.mlp->logits"]
    assert data["wiring"] == {"layers": 2, "heads": 2, "groups": 1, "parallel": False, "joined": False}
    assert data["nodes"] == {"head": ["0.head.1"], "mlp": ["1.mlp"]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"edges": ["0.haed.1->logits"]}, "no writer '0.haed.1'; did you mean '0.head.1'"),
        ({"edges": ["1.mlp->0.mlp"]}, "there is no edge '1.mlp->0.mlp'"),
        ({"edges": ["0.head.1"]}, "'0.head.1' is not an edge"),
        ({"wiring": {"layers": 3, "heads": 2, "groups": 1, "parallel": False}}, "a table of 16 by 10 is expected"),
        ({"wiring": {"layers": 2, "heads": 2}}, "is not a circuit"),
    ],
)
def test_edges_that_cannot_be_are_named(tmp_path: Path, change: dict[str, object], words: str) -> None:
    _circuit().save(tmp_path)
    path = tmp_path / "circuit.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError) as refusal:
        Circuit.load(tmp_path)
    assert "circuit.json" in refusal.value.message and words in refusal.value.message


def test_edges_without_scores_are_refused(tmp_path: Path) -> None:
    circuit = _circuit()
    circuit.save(tmp_path)
    Circuit(circuit.scores, circuit.kept, circuit.origin).save(tmp_path / "nodes")
    (tmp_path / "nodes" / "scores.safetensors").replace(tmp_path / "scores.safetensors")
    with pytest.raises(DataError, match="its edges have no scores: a table of 11 by 7 is expected"):
        Circuit.load(tmp_path)


# -- the words of these tests ------------------------------------------------------------------------------------------


def _scored(known: dict[str, float]) -> Tensor:
    """-1 for all other edges; where there is none, what must not matter."""
    scores = torch.full(WIRING.allowed.shape, -1.0).masked_fill(~WIRING.allowed, 99.0)
    for name, score in known.items():
        scores[WIRING.parse(name)] = score
    return scores


def _over(scores: Tensor, threshold: float) -> dict[str, float]:
    return {WIRING.name(*edge): float(scores[tuple(edge)]) for edge in (scores > threshold).nonzero().tolist()}


def _table(names: set[str]) -> Tensor:
    table = torch.zeros_like(WIRING.allowed)
    for name in names:
        table[WIRING.parse(name)] = True
    return table


def _names(truth: Tensor) -> set[str]:
    return {WIRING.name(reader, writer) for reader, writer in truth.nonzero().tolist()}


def _circuit() -> Circuit:
    """Three edges, scores at random."""
    scores = torch.randn(WIRING.allowed.shape, generator=torch.Generator().manual_seed(0)) * WIRING.allowed
    edges = Edges(WIRING, scores, _table(LINE))
    origin = Origin(
        model="tiny-llama",
        revision="",
        family="llama",
        dtype="float32",
        task="random",
        method="edge-pruning",
        reference="corrupt",
        seed=0,
        seconds=1.5,
        pairs={"train": 8, "validation": 4},
        result={"kl": 0.2},
    )
    return Circuit(node_scores(WIRING, scores), live_nodes(WIRING, edges.kept), origin, edges)
