"""A graph network beside influence: what it can learn, when it is taken, what it asks for."""

import json
from dataclasses import replace

import jsonschema
import pytest
import torch

from commands import Ask, schema
from graph_folders import random_graph
from subcircuit.errors import DataError, MissingExtra, UsageError
from subcircuit.features.transcoders import Transcoders, write_transcoders
from subcircuit.graphs import membership
from subcircuit.graphs.attribution import Attribution
from subcircuit.graphs.candidates import Candidates, graphs_of
from subcircuit.graphs.influence import node_influence
from subcircuit.graphs.ordering import Lessons, chosen
from subcircuit.graphs.search import HierarchySearch
from subcircuit.graphs.study import FeatureCircuit, FeatureStudy
from subcircuit.graphs.switching import Switches
from subcircuit.ground_truth.ranking import ranked
from subcircuit.loading import load
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs
from tiny import planted, random_pairs
from tiny_folder import Study
from tiny_transcoders import neuron_transcoders, random_transcoders

pytest.importorskip("torch_geometric", reason='torch-geometric is not installed: pip install "subcircuit[gnn]"')

NEURONS = [(0, 3), (0, 8), (1, 5), (1, 30)]
EVERY = Attribution(skip=0)
Known = tuple[Candidates, torch.Tensor]


def drawn_at_random(seed: int) -> Candidates:
    graph = random_graph(4, 20, seed)
    influence = node_influence(graph)[graph.feature_nodes]
    return Candidates(graph, True, len(graph.tokens), (16384,) * 4, influence, graph.activations)


def odd_ones(found: Candidates) -> torch.Tensor:
    """Features whose strongest input takes away: that is in the edges alone."""
    rows = found.graph.adjacency[found.graph.feature_nodes]
    return rows.gather(1, rows.abs().argmax(1, keepdim=True))[:, 0] < 0


def late_ones(found: Candidates) -> torch.Tensor:
    return found.graph.features[:, 1] >= 6


@pytest.mark.parametrize(("truth", "least"), [(odd_ones, 0.8), (late_ones, 0.97)])
def test_it_tells_on_new_graphs_what_influence_cannot(truth, least: float) -> None:  # type: ignore[no-untyped-def]
    known = [(each, truth(each)) for each in map(drawn_at_random, range(4))]
    network, new = membership.Membership.fit(known), drawn_at_random(50)
    chances = network.chances(new)
    assert ((chances >= 0) & (chances <= 1)).all()
    told, flat = ranked(chances, truth(new)).auroc, ranked(new.influence, truth(new)).auroc
    assert told is not None and flat is not None and told > least > 0.7 > flat


def test_names_of_features_and_unused_edges_tell_it_nothing() -> None:
    found = drawn_at_random(0)
    network = membership.Membership().eval()
    numbers = replace(found.graph, features=found.graph.features + torch.tensor([0, 0, 7]))
    assert network.chances(replace(found, graph=numbers)).equal(network.chances(found))
    data = membership.as_data(found)
    count = data.edge_index.shape[1] // 2
    assert data.edge_index[:, :count].equal(data.edge_index[:, count:].flip(0))
    assert (found.graph.adjacency[data.edge_index[1, :count], data.edge_index[0, :count]] != 0).all()


def test_its_weights_are_a_function_of_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "EPOCHS", 2)
    found = drawn_at_random(0)
    one, again, other = (membership.Membership.fit([(found, odd_ones(found))], seed=seed) for seed in (0, 0, 1))
    assert one.chances(found).equal(again.chances(found)) and not one.chances(found).equal(other.chances(found))


def test_circuits_of_all_or_nothing_teach_nothing() -> None:
    found = drawn_at_random(0)
    with pytest.raises(DataError, match="tells nothing apart"):
        membership.Membership.fit([(found, torch.ones(len(found), dtype=torch.bool))])


@pytest.fixture(scope="module")
def subject() -> Subject:
    return planted("tracr", neurons=NEURONS, intermediate_size=40)


@pytest.fixture(scope="module")
def transcoders(subject: Subject) -> Transcoders:
    return neuron_transcoders(subject)


def test_it_is_taken_where_influence_is_blind_and_not_where_influence_is_right(
    subject: Subject, transcoders: Transcoders
) -> None:
    """Influence finds planted neurons by itself. With its numbers drawn at random the graph still tells of them."""

    def switch(pairs: Pairs) -> Switches:
        return Switches(subject, transcoders, pairs, skip=0)

    search = HierarchySearch(goal=0.9)
    lessons = Lessons(search, switch)
    train, few = random_pairs(subject, 24, 5), random_pairs(subject, 12, 5, seed=7)
    known = lessons.lots(graphs_of(subject, transcoders, train, EVERY), train, lots=3)
    held = lessons.of(graphs_of(subject, transcoders, few, EVERY), few)
    right, _ = chosen(known, held, search)
    assert right.influence.features == int(held.choice.kept.sum()) and right.influence.tests == held.choice.tests
    assert right.taken == "influence" or right.gnn.features <= right.influence.features

    def blind(found: Candidates) -> Candidates:
        noise = torch.rand(len(found), generator=torch.Generator().manual_seed(1))
        return replace(found, influence=noise)

    lost = replace(held, found=blind(held.found), choice=search.find(blind(held.found), held.switches))
    told, scores = chosen([replace(each, found=blind(each.found)) for each in known], lost, search)
    assert told.taken == "gnn" and told.gnn.features < told.influence.features
    assert not scores(lost.found).equal(lost.found.influence)
    assert (told.learned, told.prompts) == (sum(len(each.switches.pairs) for each in known), 12)


def test_few_prompts_and_goals_out_of_reach_are_refused(subject: Subject, transcoders: Transcoders) -> None:
    pairs = random_pairs(subject, 6, 5)
    graphs = graphs_of(subject, transcoders, pairs, EVERY)
    lessons = Lessons(HierarchySearch(goal=1.0), lambda own: Switches(subject, transcoders, own, skip=0))
    with pytest.raises(UsageError, match="too few for the 4 lots"):
        lessons.lots(graphs, pairs)
    others = random_transcoders(subject, features=40)
    wrong = Lessons(HierarchySearch(goal=1.0), lambda own: Switches(subject, others, own, skip=0))
    with pytest.raises(DataError, match="nothing to learn from"):
        wrong.lots(graphs, pairs, lots=1)


def test_the_verb_says_which_order_it_took(files: Study, ask: Ask, tmp_path) -> None:  # type: ignore[no-untyped-def]
    write_transcoders(random_transcoders(load(files.model)), place := tmp_path / "transcoders")
    base = ["find", "hierarchy", "--model", files.model, "--task", files.prompts, "--transcoders", place]
    base += ["--goal", "0.6", "--pairs", "16", "--validation", "12", "--test", "8"]
    answer = ask(*base, "--order", "gnn", "--out", tmp_path / "a")
    assert answer.code == 0, answer.err
    jsonschema.validate(json.loads((tmp_path / "a" / "features.json").read_text()), schema("hierarchy"))
    order = FeatureCircuit.load(tmp_path / "a").order
    assert order is not None and order.prompts == 4 and order.learned in range(4, 17, 4)
    best = (order.gnn.features, order.gnn.tests) < (order.influence.features, order.influence.tests)
    assert order.taken == "influence" or (best and order.gnn.value >= 0.6)
    assert f"order: {order.taken}; on 4 held-out prompts influence AUROC" in answer.out
    assert ask(*base, "--order", "luck", "--out", tmp_path / "c").code == 2


def test_without_the_extra_it_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch_geometric", None)
    with pytest.raises(MissingExtra, match=r'pip install "subcircuit\[gnn\]"'):
        FeatureStudy(order="gnn")
    assert FeatureStudy().order == "influence"
