"""Multi-component causal tracing: every set by brute force, budgets that nest, evidence, and what it refuses."""

import logging
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from subcircuit.errors import UsageError
from subcircuit.evaluation import evidence, full_evidence
from subcircuit.gates import capped_simplex
from subcircuit.methods._components import Components
from subcircuit.methods.causal_tracing import CausalTracing
from subcircuit.sites import Kind, Site
from tiny_task import planted_study
from tiny_tracing import FEW, chosen, discovery, every_set, mask_of, names_of, random_study, tracing

# -- the optimum ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "bert"])
@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_the_best_of_all_sets_is_found(family: str, direction: str) -> None:
    subject, task = random_study(family, seed=1)
    for k in (1, 3, 5, 10):
        method = CausalTracing(k=k, direction=direction, **FEW)
        study = tracing(method, subject, task)
        values = study.values(every_set(len(study.components), k))
        assert discovery(method.find(subject, task)) == pytest.approx(float(values.max()), abs=1e-4)


def test_the_best_of_fourteen_components_is_found() -> None:
    subject, task = random_study("llama", hidden_size=48, num_attention_heads=6)
    method = CausalTracing(k=5, exact=2500, **FEW)
    study = tracing(method, subject, task)
    assert len(study.components) == 14
    best = float(study.values(every_set(14, 5)).max())
    assert discovery(method.find(subject, task)) == pytest.approx(best, abs=1e-4)


def test_without_trying_all_sets_the_search_is_near_the_optimum_and_never_below_singles() -> None:
    found, best, singles = 0.0, 0.0, 0.0
    for family in ("llama", "gpt2", "gemma2"):
        subject, task = random_study(family)
        for k in (2, 4):
            method = CausalTracing(k=k, exact=0, **FEW)
            study = tracing(method, subject, task)
            best += float(study.values(every_set(len(study.components), k)).max())
            found += discovery(method.find(subject, task))
            singles += discovery(replace(method, search="singles").find(subject, task))
    assert found > 0.97 * best and found > singles


def test_the_shares_climb_by_true_gradients() -> None:
    study = tracing(CausalTracing(**FEW), *random_study())
    m = torch.rand(10, generator=torch.Generator().manual_seed(0))
    value, slopes = study.slopes(m)
    way = torch.randn(10, generator=torch.Generator().manual_seed(1))
    step = 1e-2
    ahead, behind = (study.slopes(m + sign * step * way)[0] for sign in (1, -1))
    assert (ahead - behind) / (2 * step) == pytest.approx(float(slopes @ way), rel=2e-2)
    assert min(ahead, behind) < value < max(ahead, behind)


# -- budgets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", ["gates", "singles", "greedy", "random"])
def test_budgets_are_exact_and_nest(search: str) -> None:
    subject, task = random_study("gpt2")
    sizes = [1, 4, 6, 10]
    settings: dict[str, Any] = FEW | {"search": search, "exact": 0, "budgets": "6,1,10,4"}
    circuits = CausalTracing(**settings).family(subject, task)
    sets = [chosen(circuit) for circuit in circuits]
    assert [len(each) for each in sets] == sizes == [circuit.origin.settings["k"] for circuit in circuits]
    assert all(small < large for small, large in pairwise(sets))
    assert discovery(circuits[-1]) == pytest.approx(
        float(tracing(CausalTracing(**FEW), subject, task).replacing.whole.mean()), abs=1e-4
    )


def test_components_may_be_groups_of_neurons_beside_heads() -> None:
    subject, task = random_study()
    parts = Components.of(subject, [Kind.HEAD, Kind.NEURON], 10)
    assert len(parts) == 2 * (4 + 5)  # 48 neurons: four groups of ten, and one of eight
    settings = FEW | {"kinds": "head,neuron", "group": 10, "k": 4}
    circuit = CausalTracing(**settings).find(subject, task)
    groups = {
        (site.layer, int(unit) // 10) for site in subject.sites(Kind.NEURON) for unit in circuit.kept[site].nonzero()
    }
    assert len(groups) + len(circuit.nodes(Kind.HEAD)) == 4
    for layer, group in groups:
        assert circuit.kept[Site(layer, Kind.NEURON)][10 * group : 10 * group + 10].all()


def test_the_capped_simplex_is_projected_onto_by_hand() -> None:
    found = capped_simplex(torch.tensor([2.0, 0.5, 0.3, -1.0]), 2)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.6, 0.4, 0.0]))  # t = -0.1
    inside = torch.tensor([0.2, 0.8, 0.5])
    torch.testing.assert_close(capped_simplex(inside, 1.5), inside)
    assert torch.equal(capped_simplex(torch.randn(5), 5), torch.ones(5))
    with pytest.raises(UsageError, match="3 gates between 0 and 1 cannot sum to 4"):
        capped_simplex(inside, 4)


# -- evidence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_evidence_is_the_effect_on_other_pairs_beside_sets_of_the_same_size(direction: str) -> None:
    subject, task = random_study("gpt2")
    circuit = CausalTracing(k=3, direction=direction, **FEW | {"pairs": 24}).find(subject, task)
    found = evidence(subject, circuit, task, n=24, controls=8)
    assert found.setting is not None
    assert (found.setting.set, found.setting.direction) == ("the circuit", f"{direction[:-1]}ing")
    assert found.full.effect is not None and found.circuit.effect is not None and found.empty.effect is not None
    assert found.full.effect.mean == 0
    method = CausalTracing(direction=direction, **FEW)
    study = tracing(method, subject, task)
    study.pairs = task.pairs(subject.tokenizer, 24, split="test")
    named = chosen(circuit)
    mask = torch.tensor([bool(names_of(study.components, mask_of([each])) & named) for each in range(10)])
    assert found.circuit.effect.mean == pytest.approx(study.value(mask), abs=1e-4)
    assert found.empty.effect.mean == pytest.approx(float(study.replacing.whole.mean()), abs=1e-4)


@pytest.mark.parametrize(("direction", "metric"), [("noise", "odds-ratio"), ("denoise", "kl")])
def test_a_planted_circuit_is_evidence(direction: str, metric: str) -> None:
    subject, task = planted_study("gpt2")
    method = CausalTracing(k=5, direction=direction, metric=metric, kinds="head,neuron", validation=8)
    found = evidence(subject, method.find(subject, task), task, n=32, controls=8)
    assert found.verdict == "evidence" and "no random set of its size moves it as far" in found.reason


def test_a_random_set_is_no_evidence() -> None:
    subject, task = random_study("gpt2")
    circuit = CausalTracing(k=3, search="random", seed=2, **FEW).find(subject, task)
    found = evidence(subject, circuit, task, n=24, controls=8)
    assert found.verdict == "no evidence" and "one gradient's set" in found.reason


def test_full_evidence_is_of_circuits_that_run_alone() -> None:
    subject, task = random_study("gpt2")
    circuit = CausalTracing(k=3, **FEW).find(subject, task)
    with pytest.raises(UsageError, match="score it without --full"):
        full_evidence(subject, circuit, task, n=4)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "0 components to replace"),
        ({"budgets": "2,two"}, "write whole numbers and commas"),
        ({"budgets": "2,2"}, "give each of them once"),
        ({"kinds": "head,channel"}, "components overlap: channel and head"),
        ({"kinds": "neuron,mlp_out"}, "components overlap: neuron and mlp_out"),
        ({"kinds": "head,v"}, "components overlap: head and v"),
        ({"metric": "odd-ratio"}, "did you mean 'odds-ratio'"),
        ({"direction": "both"}, "no direction 'both'"),
        ({"direction": "denoise", "reference": "mean"}, "direction denoise with reference mean"),
        ({"search": "gate"}, "did you mean 'gates'"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"group": 0}, "group is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        CausalTracing(**settings)
    assert message in str(refused.value)


def test_more_components_than_there_are(tmp_path: Path) -> None:
    subject, task = random_study()
    with pytest.raises(UsageError, match="11 components to replace, and tiny-llama has 10 of head,mlp"):
        CausalTracing(k=11, **FEW).find(subject, task, folder=tmp_path)


def test_pairs_that_go_the_wrong_way_are_told_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    subject, task = random_study("gpt2")
    pairs = task.pairs(subject.tokenizer, 8)
    turned = replace(pairs, right=pairs.right.clone(), wrong=pairs.wrong.clone())
    turned.right[0], turned.wrong[0] = pairs.wrong[0], pairs.right[0]
    with caplog.at_level(logging.WARNING, "subcircuit"):
        circuit = CausalTracing(k=2, **FEW).find(subject, task, turned)
    wrong = int(circuit.origin.result["wrong_way"])
    assert wrong >= 1 and f"in {wrong} of 8 pairs replacing everything moves the metric the wrong way" in caplog.text
