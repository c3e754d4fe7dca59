"""Graphs of cross-layer transcoders: by brute force, beside those of one layer each, and with features switched off."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from subcircuit.features.transcoders import Transcoders
from subcircuit.graphs.attribution import Attribution
from subcircuit.graphs.candidates import candidates
from subcircuit.graphs.replacement import LocalReplacement
from subcircuit.graphs.switching import Ablation, Switches, mean_features
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs
from tiny import random_pairs, tiny
from tiny_transcoders import one_prompt, random_transcoders

LAYERS = {"llama": "num_hidden_layers", "gpt2": "n_layer"}


def deep(family: str) -> Subject:
    """Three layers, so that a feature can write past its neighbour."""
    return tiny(family, **{LAYERS[family]: 3})


def crossing(subject: Subject) -> Transcoders:
    return random_transcoders(subject, activation="jumprelu", crossing=True)


def by_hand(transcoders: Transcoders, features: list[Tensor]) -> list[Tensor]:
    """What the features of all layers write to each layer, by the definition."""
    found = []
    for into, own in enumerate(transcoders.layers):
        total = features[into] @ own.decoder + own.decoder_bias
        for layer in range(into):
            total = total + features[layer] @ transcoders.onward[layer][:, into - layer - 1]
        found.append(total)
    return found


# -- the graph ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", LAYERS)
def test_errors_are_what_all_layers_before_leave(family: str) -> None:
    subject, prompt = deep(family), one_prompt()
    transcoders = crossing(subject)
    local = LocalReplacement(subject, transcoders, prompt)
    _, seen = subject.record(prompt, subject.sites(Kind.MLP, Kind.MLP_IN))
    x, y = ([seen[Site(layer, kind)][0, :, 0] for layer in range(3)] for kind in (Kind.MLP_IN, Kind.MLP))
    features = [own.encode(each) for own, each in zip(transcoders.layers, x, strict=True)]
    for each in features:
        each[0] = 0  # the first token's features are left to the errors
    torch.testing.assert_close(torch.stack(y) - torch.stack(by_hand(transcoders, features)), local.errors)


@pytest.mark.parametrize("family", LAYERS)
def test_an_effect_is_what_more_of_the_feature_does_in_the_frozen_model(family: str) -> None:
    """A feature half as strong again, in every output that it writes to: each target moves by half its edge."""
    subject, prompt = deep(family), one_prompt()
    transcoders = crossing(subject)
    local = LocalReplacement(subject, transcoders, prompt)
    graph = Attribution(max_logits=3).graph(subject, transcoders, prompt)
    assert graph.features.equal(local.features)
    unembedding = subject.model.get_output_embeddings().weight
    before, past = local.run(), 0
    for source in range(0, len(graph.features), 5):
        layer, position, number = graph.features[source].tolist()
        outputs = [each.detach().clone() for each in before.outputs]
        for into in range(layer, 3):
            decoders = transcoders[layer].decoder if into == layer else transcoders.onward[layer][:, into - layer - 1]
            outputs[into][0, position] += 0.5 * graph.activations[source] * decoders[number]
        with torch.no_grad():
            after = local.held(before.embeddings.detach(), outputs)
        moved = torch.zeros(len(graph))
        for target, (at, where, feature) in enumerate(graph.features.tolist()):
            change = after.reads[at][0, where] - before.reads[at][0, where]
            moved[target] = change @ transcoders[at].encoder[feature]
        change = (after.hidden - before.hidden)[0, -1] @ (unembedding[list(graph.targets)] - unembedding.mean(0)).T
        moved[graph.target_nodes] = change
        torch.testing.assert_close(0.5 * graph.adjacency[:, source], moved, rtol=1e-3, atol=2e-4)
        past += int((graph.adjacency[graph.feature_nodes, source][graph.features[:, 0] > layer + 1] != 0).sum())
    assert past > 20


def test_with_nothing_past_their_own_layer_the_graph_is_that_of_transcoders_of_one_layer_each() -> None:
    subject, prompt = deep("llama"), one_prompt()
    single = random_transcoders(subject, activation="jumprelu")
    nothing = replace(single, onward=tuple(torch.zeros(24, 2 - layer, 32) for layer in range(3)))
    one, other, full = (Attribution().graph(subject, each, prompt) for each in (single, nothing, crossing(subject)))
    torch.testing.assert_close(one.adjacency, other.adjacency)
    assert one.features.equal(full.features) and not torch.allclose(one.adjacency, full.adjacency, atol=1e-2)


# -- switching ------------------------------------------------------------------------------------------------------


def switched(subject: Subject, transcoders: Transcoders, pairs: Pairs, keep: list[Tensor]) -> Tensor:
    """Zero ablation written out: live features so far, those not kept at 0, and the plain run's errors."""
    _, plain = subject.record(pairs.clean, subject.sites(Kind.MLP, Kind.MLP_IN))
    live: list[Tensor] = []

    def encoded(layer: int, x: Tensor) -> Tensor:
        features = transcoders[layer].encode(x)
        features[:, 0] = 0
        return features

    every = [encoded(layer, plain[Site(layer, Kind.MLP_IN)][:, :, 0]) for layer in range(3)]
    errors = [plain[Site(layer, Kind.MLP)][:, :, 0] - each for layer, each in enumerate(by_hand(transcoders, every))]

    def enter(layer: int, act: Tensor) -> Tensor:
        live.append(encoded(layer, act[:, :, 0]) * keep[layer])
        return act

    def leave(layer: int) -> Tensor:
        padded = live + [torch.zeros_like(live[0])] * (2 - layer)
        return (by_hand(transcoders, padded)[layer] + errors[layer])[:, :, None]

    edits = {Site(layer, Kind.MLP_IN): lambda act, layer=layer: enter(layer, act) for layer in range(3)}  # type: ignore[misc]
    edits |= {Site(layer, Kind.MLP): lambda act, layer=layer: leave(layer) for layer in range(3)}  # type: ignore[misc]
    with torch.no_grad(), subject.editing(edits):
        return subject.logits(pairs.clean)


@pytest.mark.parametrize("family", LAYERS)
@pytest.mark.parametrize("ablation", ["zero", "mean", "counterfactual"])
def test_with_everything_on_it_is_the_model(family: str, ablation: Ablation) -> None:
    subject = deep(family)
    pairs, transcoders = random_pairs(subject, 5), crossing(subject)
    means = mean_features(subject, transcoders, pairs.corrupt, by_position=True)
    switches = Switches(subject, transcoders, pairs, ablation=ablation, means=means, batch_size=2)
    every = [torch.ones(1, len(layer), dtype=torch.bool) for layer in transcoders.layers]
    torch.testing.assert_close(switches.logits(every), subject.logits(pairs.clean), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(switches.logits([~each for each in every]), subject.logits(pairs.clean), atol=1e-2)


@pytest.mark.parametrize("family", LAYERS)
def test_a_feature_that_is_off_writes_to_no_layer(family: str) -> None:
    subject = deep(family)
    pairs, transcoders = random_pairs(subject, 5), crossing(subject)
    generator = torch.Generator().manual_seed(0)
    keep = [torch.rand(1, 24, generator=generator) < 0.5 for _ in range(3)]
    found = Switches(subject, transcoders, pairs, ablation="zero", batch_size=2).logits(keep)
    torch.testing.assert_close(found, switched(subject, transcoders, pairs, keep), rtol=1e-3, atol=1e-3)


def test_candidates_of_a_task_are_found_as_ever() -> None:
    subject = deep("llama")
    found = candidates(subject, crossing(subject), random_pairs(subject, 3, 5), Attribution())
    assert found.sizes == (24, 24, 24) and float(found.influence.max()) > 0
