"""Features switched off, and circuits of them, on models whose neurons are the features: the answer is known."""

import pytest
import torch
from torch import Tensor

from subcircuit.errors import DataError, UnknownName, UsageError
from subcircuit.graphs.attribution import Attribution
from subcircuit.graphs.candidates import Candidates, candidates
from subcircuit.graphs.evidence import random_alike, weigh
from subcircuit.graphs.search import HierarchySearch, behaviour, flat_greedy
from subcircuit.graphs.switching import Ablation, Switches, mean_features
from subcircuit.scores import judge
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs
from tiny import planted, random_pairs, tiny
from tiny_transcoders import neuron_transcoders, random_transcoders

NEURONS = [(0, 3), (0, 8), (1, 5), (1, 30)]
EVERY = Attribution(skip=0)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return planted("tracr", neurons=NEURONS, intermediate_size=40)


@pytest.fixture(scope="module")
def found(subject: Subject) -> Candidates:
    return candidates(subject, neuron_transcoders(subject), random_pairs(subject, 12, 5), EVERY)


def switched(subject: Subject, pairs: Pairs, keep: list[Tensor], values: dict[Site, Tensor] | None) -> Tensor:
    """The same by the model's own neurons: those not kept take other values, or 0."""
    edits = {
        site: lambda act, site=site: torch.where(  # type: ignore[misc]
            keep[site.layer][..., None], act, values[site] if values else torch.zeros(())
        )
        for site in subject.sites(Kind.NEURON)
    }
    with torch.no_grad(), subject.editing(edits):
        return subject.logits(pairs.clean)


# -- switching ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("ablation", ["zero", "counterfactual"])
def test_with_everything_on_it_is_the_model(family: str, ablation: Ablation) -> None:
    subject = tiny(family)
    pairs, transcoders = random_pairs(subject, 5), random_transcoders(subject, skip=True)
    switches = Switches(subject, transcoders, pairs, ablation=ablation, batch_size=2)
    every = [torch.ones(1, len(layer), dtype=torch.bool) for layer in transcoders.layers]
    torch.testing.assert_close(switches.logits(every), subject.logits(pairs.clean), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(switches.logits([~each for each in every]), subject.logits(pairs.clean), atol=1e-2)
    assert switches.tests == 2


@pytest.mark.parametrize("ablation", ["zero", "mean", "counterfactual"])
def test_switching_features_is_switching_the_neurons_that_they_are(subject: Subject, ablation: Ablation) -> None:
    pairs, transcoders = random_pairs(subject, 6, 5), neuron_transcoders(subject)
    means = mean_features(subject, transcoders, pairs.corrupt, by_position=True, skip=0)
    switches = Switches(subject, transcoders, pairs, ablation=ablation, means=means, skip=0)
    torch.manual_seed(0)
    keep = [torch.rand(5, 40) < 0.5 for _ in range(2)]
    _, other = subject.record(pairs.corrupt, subject.sites(Kind.NEURON))
    values = {site: act.mean(0, keepdim=True) if ablation == "mean" else act for site, act in other.items()}
    expected = switched(subject, pairs, keep, None if ablation == "zero" else values)
    torch.testing.assert_close(switches.logits(keep), expected, rtol=1e-4, atol=1e-3)


def test_wrong_ablations_are_refused(subject: Subject) -> None:
    pairs, transcoders = random_pairs(subject, 3, 5), neuron_transcoders(subject)
    with pytest.raises(UnknownName, match="ablation 'noise'"):
        Switches(subject, transcoders, pairs, ablation="noise")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no means"):
        Switches(subject, transcoders, pairs, ablation="mean")


# -- candidates -----------------------------------------------------------------------------------------------------


def test_the_planted_features_and_their_edges_are_found(subject: Subject, found: Candidates) -> None:
    """Only planted neurons write, so only they have influence, and no error has any."""
    graph = found.graph
    names = {
        (layer, number)
        for (layer, _, number), mass in zip(graph.features.tolist(), found.influence.tolist(), strict=True)
        if mass > 1e-6
    }
    assert names == set(NEURONS)
    assert float(graph.adjacency[:, graph.error_nodes].abs().max()) < 1e-4
    sources = {
        (int(graph.features[source, 0]), int(graph.features[source, 2]))
        for target, source in (graph.adjacency[graph.feature_nodes, graph.feature_nodes].abs() > 1e-5)
        .nonzero()
        .tolist()
        if (int(graph.features[target, 0]), int(graph.features[target, 2])) in NEURONS
    }
    assert sources == {neuron for neuron in NEURONS if neuron[0] == 0}


def test_candidates_are_the_mean_over_prompts(subject: Subject) -> None:
    pairs, transcoders = random_pairs(subject, 2, 5), neuron_transcoders(subject)
    both = candidates(subject, transcoders, pairs, EVERY)
    alone = [candidates(subject, transcoders, pairs[[row]], EVERY) for row in range(2)]
    for name in ("influence", "activation"):
        total = {tuple(key): 0.0 for key in both.graph.features.tolist()}
        for each in alone:
            for key, value in zip(each.graph.features.tolist(), getattr(each, name).tolist(), strict=True):
                total[tuple(key)] += value / 2
        torch.testing.assert_close(getattr(both, name), torch.tensor(list(total.values())))
    anywhere = candidates(subject, transcoders, pairs, EVERY, by_position=False)
    assert anywhere.positions == 1 and len(anywhere) == len(both.graph.features[:, [0, 2]].unique(dim=0))
    torch.testing.assert_close(anywhere.influence.sum(), both.influence.sum())


def test_a_choice_is_a_mask_of_its_own_features(found: Candidates) -> None:
    chosen = torch.zeros(len(found), dtype=torch.bool)
    chosen[[0, 7]] = True
    keep = found.keep(chosen)
    assert [tuple(mask.shape) for mask in keep] == [(5, 40), (5, 40)] and sum(int(mask.sum()) for mask in keep) == 2
    for layer, position, number in found.graph.features[[0, 7]].tolist():
        assert keep[layer][position, number]
    assert all((one ^ other).all() for one, other in zip(keep, found.without(chosen), strict=True))


# -- search ---------------------------------------------------------------------------------------------------------


def test_the_search_keeps_planted_features_only_in_a_few_tests(subject: Subject, found: Candidates) -> None:
    pairs = random_pairs(subject, 40, 5, seed=3)
    switches = Switches(subject, neuron_transcoders(subject), pairs, skip=0)
    choice = HierarchySearch(goal=0.9).find(found, switches)
    assert choice.value >= 0.9 and choice.tests <= max(20, len(found) // 10) + 10
    kept = {(layer, number) for layer, _, number in found.graph.features[choice.kept].tolist()}
    assert kept <= set(NEURONS) and 0 < int(choice.kept.sum()) < 0.25 * len(found)
    assert sorted(torch.cat(choice.groups).tolist()) == choice.kept.nonzero()[:, 0].tolist()
    assert behaviour(found, switches, "exact-match")(choice.kept) == pytest.approx(choice.value)
    flat = flat_greedy(found, switches, goal=0.9)
    assert flat.tests == len(found) + 1 and flat.value >= 0.9 and int(flat.kept.sum()) <= int(choice.kept.sum()) + 3


def test_more_tests_never_make_the_circuit_larger_and_a_missed_goal_keeps_all(
    subject: Subject, found: Candidates
) -> None:
    pairs = random_pairs(subject, 40, 5, seed=3)
    switches = Switches(subject, neuron_transcoders(subject), pairs, skip=0)
    few, many = (int(HierarchySearch(goal=0.95, tests=tests).find(found, switches).kept.sum()) for tests in (8, 200))
    assert many <= few
    measured = HierarchySearch(goal=0.9, measure="faithfulness").find(found, switches)
    assert measured.value >= 0.9
    wrong = Switches(subject, random_transcoders(tiny("tracr"), features=40), pairs, skip=0)
    missed = HierarchySearch(goal=1.0).find(found, wrong)
    assert missed.value < 1 and missed.kept.all()
    with pytest.raises(UsageError, match="goal is 2"):
        HierarchySearch(goal=2)


# -- evidence -------------------------------------------------------------------------------------------------------


def test_evidence_beside_controls(subject: Subject, found: Candidates) -> None:
    pairs = random_pairs(subject, 40, 5, seed=9)
    switches = Switches(subject, neuron_transcoders(subject), pairs, skip=0)
    planted_ones = torch.tensor([(layer, number) in NEURONS for layer, _, number in found.graph.features.tolist()])
    told = weigh(found, switches, planted_ones, draws=5, others={"all": torch.ones_like(planted_ones)})
    assert told.full.exact_match.mean == 1 and told.controls["all"].sufficiency.exact_match.mean > 0.9
    assert told.circuit.sufficiency.kl.mean == pytest.approx(told.controls["all"].sufficiency.kl.mean, abs=1e-3)
    assert told.circuit.necessity.kl.mean > told.circuit.sufficiency.kl.mean
    assert len(told.random) == 5 and min(told.random_kl) > told.circuit.sufficiency.kl.mean
    assert told.empty.kl.mean == pytest.approx(
        float(judge(switches.full, switches.logits(found.keep(planted_ones & False)), pairs)["kl"].mean())
    )
    by_name = {each.ranking: each for each in told.curves}
    assert set(by_name) == {"hierarchy", "influence", "activation"}
    last = by_name["influence"].sufficiency[-1]
    assert last is not None and last.mean == pytest.approx(1, abs=0.2)


def test_random_choices_match_layers_and_positions(found: Candidates) -> None:
    kept = torch.rand(len(found), generator=torch.Generator().manual_seed(0)) < 0.3
    drawn, again = (random_alike(found, kept, seed) for seed in (1, 1))
    assert drawn.equal(again) and not drawn.equal(random_alike(found, kept, 2))
    places = found.graph.features[:, 0] * 5 + found.graph.features[:, 1]
    assert torch.bincount(places[kept], minlength=10).equal(torch.bincount(places[drawn], minlength=10))
