"""The benchmark: what it counts, what it runs, what it prints."""

from dataclasses import replace

import pytest
import torch

from commands import Ask
from subcircuit import plugins
from subcircuit.circuit import Circuit, Origin
from subcircuit.edge_tables import Edges
from subcircuit.ground_truth.bench import run, score, settings
from subcircuit.ground_truth.cases import Case, case_names, cases
from subcircuit.ground_truth.planted import RandomTask, planted, planted_nodes
from subcircuit.sites import Kind, Site
from tiny_task import planted_study

QUICK = "attribution-patching"


@pytest.fixture(scope="module")
def reverse() -> Case:
    (case,) = cases(["compiled-reverse"])
    return case


# -- what is counted ------------------------------------------------------------------------------------------------


def test_scores_are_ranked_by_magnitude_where_the_method_ranks_so(reverse: Case) -> None:
    """Heads 0 and 3 are true; head 3 has the lowest score and the second largest."""
    heads = [3.0, 1.0, 0.5, -2.0]
    by_size, as_given = (score("x", reverse, _circuit(reverse, heads, rank=rank)) for rank in ("magnitude", "signed"))
    assert by_size.kinds["head"].auroc == 1.0
    assert as_given.kinds["head"].auroc == 0.5


def test_nodes_are_compared_within_their_granularity(reverse: Case) -> None:
    """All MLPs score below all heads, the true ones by less."""
    found = score("x", reverse, _circuit(reverse, [2.0, 1.0, 1.0, 2.0], mlps=[-1.0, -1.0, -1.0, -2.0]))
    assert found.nodes is not None and found.nodes.auroc == found.nodes.auprc == 1.0
    assert (found.nodes.true, found.nodes.total) == (5, 8)
    assert found.edges is None and found.every_edge is None


def test_a_granularity_without_scores_is_left_out(reverse: Case) -> None:
    circuit = _circuit(reverse, [1.0, 0.0, 0.0, 1.0])
    circuit = replace(circuit, scores={site: s for site, s in circuit.scores.items() if site.kind is Kind.HEAD})
    assert set(score("x", reverse, circuit).kinds) == {"head"}
    assert score("x", reverse, replace(circuit, scores={})).nodes is None


def test_edges_that_carry_no_tokens_stand_apart(reverse: Case) -> None:
    """Of 77 edges 8 carry tokens and score 1; the 4 that carry a position or a constant score 0 like the idle ones."""
    wiring = reverse.wiring
    scores = torch.zeros(wiring.allowed.shape)
    for name, carries in reverse.edges.items():
        scores[wiring.parse(name)] = float(carries == "token")
    found = score("x", reverse, _circuit(reverse, [1.0] * 4, edges=Edges(wiring, scores, scores > 0)))
    assert found.edges is not None and found.every_edge is not None
    assert (found.edges.auroc, found.edges.true, found.edges.total) == (1.0, 8, 73)
    assert (found.every_edge.true, found.every_edge.total) == (12, 77)
    assert found.every_edge.auroc == pytest.approx((8 + 4 / 2) / 12)


# -- what is run ----------------------------------------------------------------------------------------------------


def test_there_is_a_case_for_every_decoder_family_and_every_program() -> None:
    families = {name for name in plugins.names("families") if plugins.load("families", name).causal}
    planted_ones = {name.removeprefix("planted-") for name in case_names() if name.startswith("planted-")}
    assert planted_ones == families == set(plugins.names("families")) - {"bert", "distilbert"}
    assert len(case_names()) == len(families) + 4


@pytest.mark.parametrize("name", [name for name in case_names() if name.startswith("planted-")])
def test_exact_patching_ranks_every_planted_node_first(name: str) -> None:
    (result,) = run(["activation-patching"], cases([name]))
    assert result.nodes is not None and result.nodes.auroc == result.nodes.auprc == 1.0
    assert result.kinds["neuron"].auroc == result.kinds["neuron"].auprc == 1.0
    assert (result.kinds["neuron"].true, result.kinds["mlp"].true) == (3, 2)


@pytest.mark.parametrize("method", plugins.names("methods"))
def test_settings_are_those_the_method_has(method: str) -> None:
    chosen = settings(method, seed=5)
    assert chosen["seed"] == 5
    plugins.load("methods", method)(**chosen)


def test_a_method_that_does_not_suit_a_case_is_named_and_the_others_go_on() -> None:
    subject = planted("bert")
    case = Case("encoder", subject, RandomTask(subject), (Kind.HEAD,), planted_nodes(neurons=()), {})
    refused, ran = run(["edge-attribution", QUICK], [case])
    assert "is an encoder" in refused.refused and refused.nodes is None
    assert not ran.refused and ran.kinds["head"].auroc == 1.0


def test_pairs_of_a_case_are_the_same_for_every_method() -> None:
    subject, task = planted_study()
    first, second = (task.pairs(subject.tokenizer, 8, seed=1) for _ in range(2))
    assert torch.equal(first.clean.ids, second.clean.ids)


# -- what is printed ------------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_of_cases_by_methods(ask: Ask) -> None:
    answer = ask("bench", "ground-truth", "--method", QUICK, "--method", "random", "--case", "compiled-reverse")
    assert answer.code == 0
    (row,) = [line for line in answer.out.splitlines() if line.startswith("compiled-reverse")]
    assert row.split()[1:4] == ["1.00", "/", "1.00"]
    assert "heads and MLPs: AUROC / AUPRC" in answer.out
    assert "edges" not in answer.out  # neither method has any


def test_json_keeps_to_its_schema(ask: Ask) -> None:
    words = ("--json", "--method", "edge-attribution", "--case", "compiled-frac-prevs", "--case", "planted-gpt2")
    answer = ask("bench", "ground-truth", *words)
    assert [result["case"] for result in answer.json["results"]] == ["compiled-frac-prevs", "planted-gpt2"]
    assert answer.json["results"][0]["edges"]["total"] == 21
    assert answer.json["results"][0]["every_edge"]["total"] == 23


def test_names_that_are_none_are_refused_with_the_nearest(ask: Ask) -> None:
    answer = ask("bench", "ground-truth", "--method", "activation-patch")
    assert answer.code == 2 and "did you mean 'activation-patching'" in answer.err
    answer = ask("bench", "ground-truth", "--case", "compiled-revers", "--json")
    assert answer.code == 2 and "did you mean 'compiled-reverse'" in answer.json["error"]["message"]
    assert "no benchmark 'ground-truht'" in ask("bench", "ground-truht").err


# -- the words of these tests ---------------------------------------------------------------------------------------


def _circuit(
    case: Case,
    heads: list[float],
    *,
    mlps: list[float] | None = None,
    edges: Edges | None = None,
    rank: str = "magnitude",
) -> Circuit:
    """A circuit with one score per layer for its only head, and for its MLP."""
    scores = {Site(layer, Kind.HEAD): torch.tensor([value]) for layer, value in enumerate(heads)}
    scores |= {Site(layer, Kind.MLP): torch.tensor([value]) for layer, value in enumerate(mlps or [0.0] * len(heads))}
    settings = {} if mlps else {"rank": rank}
    origin = Origin(
        model=case.name,
        revision="",
        family="tracr",
        dtype="float32",
        task=case.task.name,
        method="x",
        settings=settings,
        reference="corrupt",
        seed=0,
        pairs={},
    )
    return Circuit(scores, {site: score > 0 for site, score in scores.items()}, origin, edges)
