"""Features of two models aligned: a model and itself with its features in another order, and one that is unrelated."""

from dataclasses import replace

import pytest
import torch

from subcircuit.errors import DataError, UsageError
from subcircuit.features.transcoders import Transcoders
from subcircuit.graphs.attribution import Attribution
from subcircuit.graphs.candidates import Candidates, candidates
from subcircuit.graphs.transfer import Alignment, activations_of, align, likeness
from subcircuit.subject import Subject
from tiny import random_pairs, random_prompts, tiny
from tiny_transcoders import random_transcoders


def shuffled(transcoders: Transcoders) -> tuple[Transcoders, list[torch.Tensor]]:
    """The same features in another order: feature i of a layer is now where `orders[layer]` holds i."""
    orders = [
        torch.randperm(len(each), generator=torch.Generator().manual_seed(layer))
        for layer, each in enumerate(transcoders.layers)
    ]
    layers = [
        replace(each, encoder=each.encoder[order], decoder=each.decoder[order], encoder_bias=each.encoder_bias[order])
        for each, order in zip(transcoders.layers, orders, strict=True)
    ]
    return replace(transcoders, layers=tuple(layers)), orders


def found_in(subject: Subject, transcoders: Transcoders) -> Candidates:
    pairs = random_pairs(subject, 8, 6)
    return candidates(subject, transcoders, pairs, Attribution(), by_position=False)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return tiny("llama")


@pytest.fixture(scope="module")
def own(subject: Subject) -> Candidates:
    return found_in(subject, random_transcoders(subject))


def test_a_model_is_like_itself_in_another_order(subject: Subject, own: Candidates) -> None:
    first = random_transcoders(subject)
    second, orders = shuffled(first)
    other, text = found_in(subject, second), random_prompts(subject, 30, 8, seed=5)
    alignment = align(activations_of(own, subject, first, text), activations_of(other, subject, second, text))
    certain = alignment.correlation > 0.999
    assert certain.sum() > 0.9 * len(own)
    for one, two in zip(alignment.first[certain].tolist(), alignment.second[certain].tolist(), strict=True):
        layer, _, number = own.graph.features[one].tolist()
        other_layer, _, place = other.graph.features[two].tolist()
        assert layer == other_layer and int(orders[layer][place]) == number
    sure = Alignment(alignment.first[certain], alignment.second[certain], alignment.correlation[certain])
    told = likeness(own, other, sure, draws=200)
    assert told.jaccard == pytest.approx(1) and told.permuted < 0.3 and told.random < 0.3
    assert told.permuted_p == told.random_p == pytest.approx(1 / 201)


def test_unrelated_features_are_no_more_alike_than_by_chance(subject: Subject, own: Candidates) -> None:
    other = found_in(subject, random_transcoders(subject, seed=7))
    count = min(len(own), len(other)) // 2
    layers = [each.graph.features[:, 0] for each in (own, other)]
    sides = [torch.cat([(each == layer).nonzero()[: count // 2, 0] for layer in range(2)]) for each in layers]
    told = likeness(own, other, Alignment(*sides, torch.ones(len(sides[0]))), draws=200)
    assert told.jaccard < 0.3 and told.permuted_p > 0.05 and told.random_p > 0.05


def test_alignment_is_one_to_one_and_by_correlation() -> None:
    torch.manual_seed(0)
    table = torch.randn(200, 5)
    other = torch.stack([-table[:, 0], 3 * table[:, 2] + 1, table[:, 1] + 0.5 * torch.randn(200)], 1)
    found = align(table, other)
    pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert pairs == {(2, 1), (1, 2)} and found.correlation[0] == pytest.approx(1, abs=1e-5)
    with pytest.raises(DataError, match="200 and 3 tokens"):
        align(table, other[:3])


def test_what_cannot_be_compared_is_refused(subject: Subject, own: Candidates) -> None:
    with pytest.raises(UsageError, match="no edge joins two of the 1 aligned"):
        likeness(own, own, Alignment(torch.tensor([0]), torch.tensor([0]), torch.ones(1)))
    told_apart = replace(own, by_position=True)
    with pytest.raises(DataError, match="at positions"):
        activations_of(told_apart, subject, random_transcoders(subject), random_prompts(subject))
