"""Answers about features are those of switches, of neurons where features are neurons, and of the graph itself."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_files
from hand_graphs import drawn
from live_graphs import LiveGraph
from subcircuit.errors import DataError, Interrupted, SubcircuitError
from subcircuit.graphs.attribution import Attribution
from subcircuit.graphs.files import save_graph
from subcircuit.graphs.prediction import predicted
from subcircuit.graphs.switching import Ablation, Switches, mean_features
from subcircuit.metrics import kl
from subcircuit.prompts import Prompts
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs
from subcircuit.view.graph_questions import GraphAnswer, GraphQuestion
from subcircuit.view.graphs import GraphSession
from tiny import planted, random_prompts
from tiny_transcoders import neuron_transcoders, random_transcoders

NEURONS = [(0, 3), (0, 8), (1, 5), (1, 30)]


def asked(graph: LiveGraph, names: list[str], **changes: Any) -> GraphAnswer:
    return graph.session.answer(GraphQuestion(features=names, **{"draws": 0, "top": 64, **changes}))


def logits_of(answer: GraphAnswer) -> Tensor:
    """Every logit, by token."""
    found = torch.full((1, len(answer.top)), torch.nan)
    for token in answer.top:
        found[0, token.id] = token.logit
    return found


def prompt_of(subject: Subject, text: str) -> Prompts:
    ids = torch.tensor([subject.tokenizer(text).input_ids])
    return Prompts(ids, torch.ones_like(ids, dtype=torch.bool), torch.tensor([ids.shape[1] - 1]))


# -- beside the library ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", ["zero", "counterfactual", "mean"])
def test_switched_off_is_what_switches_say(graph: LiveGraph, fill: Ablation) -> None:
    texts = random_prompts(graph.subject, 5, 6)
    session = GraphSession(graph.subject, graph.transcoders, graph.file, graph.graph, texts=texts)
    clean, other = (prompt_of(graph.subject, text) for text in (graph.file.prompt, graph.other))
    pairs = Pairs(clean, other, clean.at[:, None], clean.at[:, None])
    means = mean_features(graph.subject, graph.transcoders, texts, by_position=False)
    switches = Switches(graph.subject, graph.transcoders, pairs, ablation=fill, means=means)
    chosen = [3, len(graph.names) // 2, len(graph.names) - 2]
    keep = [torch.ones(len(graph.file.tokens), len(layer), dtype=torch.bool) for layer in graph.transcoders.layers]
    for layer, position, number in graph.graph.features[chosen].tolist():
        keep[layer][position, number] = False
    names = [graph.names[node] for node in chosen]
    question = GraphQuestion(features=names, fill=fill, counterfactual=graph.other, draws=0, top=64)
    answer, expected = session.answer(question), switches.logits(keep)
    assert (logits_of(answer) - expected).abs().max() < 1e-5
    assert answer.kl == pytest.approx(float(kl(switches.full, expected)), abs=1e-6) and answer.features == 3
    centred = (expected - expected.mean())[0, list(graph.graph.targets)]
    assert [each.after for each in answer.targets] == pytest.approx(centred.tolist(), abs=1e-5)
    assert [each.before for each in answer.targets] == pytest.approx(graph.graph.logits.tolist(), abs=1e-4)


def test_untouched_it_is_the_model(graph: LiveGraph) -> None:
    own = graph.subject.logits(prompt_of(graph.subject, graph.file.prompt)).detach()
    answer = asked(graph, [])
    assert (logits_of(answer) - own).abs().max() < 1e-5 and answer.kl == 0 and answer.random_kl == []
    assert asked(graph, graph.names[:4], amount=1.0).kl == pytest.approx(0, abs=1e-6)


def test_as_many_random_features_stand_beside(graph: LiveGraph) -> None:
    names = graph.names[-3:]
    answer = asked(graph, names, draws=6)
    assert answer.random == 3 and len(set(answer.random_kl)) > 1 and min(answer.random_kl) >= 0
    assert all(len(each.random) == 6 for each in answer.targets)
    few = asked(graph, graph.names[2:], draws=2)  # two are left
    assert few.random == 2 and few.random_kl[0] == few.random_kl[1] == asked(graph, graph.names[:2]).kl
    assert asked(graph, graph.names, draws=2).random_kl == []


# -- known answers --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def neurons(tmp_path_factory: pytest.TempPathFactory) -> LiveGraph:
    """A model of rectified neurons without norms: its features are its neurons."""
    model = planted("tracr", neurons=NEURONS, intermediate_size=40).model
    subject = Subject(model, tiny_files.tokenizer(), name="neurons")
    transcoders, text = neuron_transcoders(subject), "a f k p u"
    made = Attribution(skip=0, max_logits=4, probability=1.0).graph(subject, transcoders, text)
    file = save_graph(made, folder := tmp_path_factory.mktemp("neurons"), settings={"skip": 0})
    session = GraphSession(subject, transcoders, file, made)
    return LiveGraph(folder, made, file, subject, transcoders, session, "b g l q v")


@pytest.mark.parametrize("amount", [0.0, 0.25, -1.0, 1.75])
@pytest.mark.parametrize("fill", ["zero", "counterfactual"])
def test_scaling_features_is_scaling_the_neurons_that_they_are(neurons: LiveGraph, fill: str, amount: float) -> None:
    subject, chosen = neurons.subject, [name for name in neurons.names if name.endswith(("@4", "@2"))]
    places = [
        (int(name.split(".")[0]), int(name.split("@")[1]), int(name.split(".")[1].split("@")[0])) for name in chosen
    ]
    assert {layer for layer, *_ in places} == {0, 1}
    _, other = subject.record(prompt_of(subject, neurons.other), subject.sites(Kind.NEURON))

    def edit(site: Site) -> Any:
        def change(act: Tensor) -> Tensor:
            new = act.clone()
            for layer, position, unit in places:
                if layer == site.layer:
                    fills = other[site][0, position, unit] if fill == "counterfactual" else 0.0
                    new[0, position, unit] = amount * act[0, position, unit] + (1 - amount) * fills
            return new

        return change

    with torch.no_grad(), subject.editing({site: edit(site) for site in subject.sites(Kind.NEURON)}):
        expected = subject.logits(prompt_of(subject, neurons.file.prompt))
    answer = asked(neurons, chosen, amount=amount, fill=fill, counterfactual=neurons.other)
    assert (logits_of(answer) - expected).abs().max() < 1e-4
    assert answer.kl > 1e-4


@pytest.mark.parametrize("fill", ["zero", "counterfactual"])
def test_the_last_layers_direct_edges_are_the_whole_effect(neurons: LiveGraph, fill: str) -> None:
    """Nothing reads them but the unembedding, and there is no norm before it: the graph is exact."""
    last = [name for name in neurons.names if name.startswith("1.") and name.endswith("@4")]
    answer = asked(neurons, last, amount=0.5, fill=fill, counterfactual=neurons.other)
    moves = [each.after - each.before for each in answer.targets]
    assert max(map(abs, moves)) > 1e-2
    assert [each.direct for each in answer.targets] == pytest.approx(moves, abs=1e-4)
    assert [each.through for each in answer.targets] == pytest.approx(moves, abs=1e-4)


def test_a_prediction_by_hand() -> None:
    effects = {("t", "f0"): 2.0, ("f0", "f1"): 3.0, ("t", "f1"): 1.0, ("f0", "l0"): 1.0, ("f1", "l0"): 4.0}
    graph = drawn(3, effects | {("f1", "f2"): 2.0, ("t", "f2"): 2.0, ("f2", "l0"): 8.0})
    off = torch.tensor([True, False, False])
    # f0 off: f1 goes from 4 to 1, so by -3/4; f2 by -3/4 of the half that f1 gives it
    found = predicted(graph, off, torch.tensor([-1.0, 0.0, 0.0]))
    assert found.direct.tolist() == [-1.0] and found.through.tolist() == pytest.approx([-1 - 3 - 3])
    held = predicted(graph, torch.tensor([True, True, False]), torch.tensor([-1.0, 0.0, 9.0]))
    assert held.direct.tolist() == held.through.tolist() == [-1.0]
    far = predicted(graph, off, torch.tensor([-9.0, 0.0, 0.0]))  # f1 would be below 0, and is off
    assert far.through.tolist() == pytest.approx([-9 - 4 - 4])


# -- refusals -------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"names": ["9.9@9"]}, "the graph has no feature 9.9@9", "LAYER.NUMBER@POSITION"),
    ({"fill": "counterfactual"}, "there is no other prompt", "type one"),
    ({"fill": "counterfactual", "counterfactual": "a b"}, "7 tokens, the other prompt 2", "as many tokens"),
    ({"fill": "mean"}, "no texts to take a mean over", "--texts"),
]


@pytest.mark.parametrize(("changes", "said", "cure"), REFUSED)
def test_it_refuses_what_makes_no_sense(graph: LiveGraph, changes: dict[str, Any], said: str, cure: str) -> None:
    with pytest.raises(SubcircuitError) as refused:
        asked(graph, **{"names": graph.names[:1], **changes})
    assert said in refused.value.message and cure in refused.value.cure
    assert asked(graph, []).kl == 0


def test_other_transcoders_are_refused(graph: LiveGraph) -> None:
    others = random_transcoders(graph.subject, seed=5)
    with pytest.raises(
        DataError, match=r"feature \d+\.\d+@\d+ is at .* in the graph: the transcoders in .* are others"
    ):
        GraphSession(graph.subject, others, graph.file, graph.graph)


def test_a_logit_difference_is_judged_as_one(graph: LiveGraph, tmp_path: Path) -> None:
    words = [graph.subject.tokenizer.decode([token]) for token in (9, 20)]
    made = Attribution().graph(graph.subject, graph.transcoders, graph.file.prompt, between=([9], [20]))
    settings = {"skip": 1, "right": words[0], "wrong": words[1]}
    session = GraphSession(graph.subject, graph.transcoders, save_graph(made, tmp_path, settings=settings), made)
    answer = session.answer(GraphQuestion(features=[made.name(0)], top=64))
    logits = logits_of(answer)[0]
    assert session.about.difference and len(answer.targets) == 1
    assert answer.targets[0].after == pytest.approx(float(logits[9] - logits[20]), abs=1e-5)
    assert answer.targets[0].before == pytest.approx(float(made.logits[0]), abs=1e-4)


def test_it_stops_at_the_next_layer(graph: LiveGraph) -> None:
    with pytest.raises(Interrupted):
        graph.session.answer(GraphQuestion(features=graph.names[:1]), lambda: True)
    assert asked(graph, []).kl == 0


def test_an_activation_of_another_precision_will_do(graph: LiveGraph) -> None:
    coarse = replace(graph.graph, activations=graph.graph.activations.bfloat16().float())
    assert GraphSession(graph.subject, graph.transcoders, graph.file, coarse).about.prompt == graph.file.prompt
