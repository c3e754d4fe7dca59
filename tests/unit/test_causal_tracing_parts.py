"""Causal tracing at parts of the positions, by cost, on answers of several tokens: against edits and sums by hand."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from subcircuit import metrics
from subcircuit.circuit import Circuit
from subcircuit.errors import DataError, UnknownName, UsageError
from subcircuit.evaluation import BudgetCurves, budget_curves, evidence, token_effects
from subcircuit.gates import capped_simplex
from subcircuit.methods._components import Components, fitting
from subcircuit.methods.causal_tracing import CausalTracing
from subcircuit.positions import places
from subcircuit.replacement import METRICS, Replacement
from subcircuit.sites import Kind, Site
from subcircuit.subject import Prompts, Subject
from subcircuit.tasks._base import Continuations, Pairs
from tiny import random_pairs, shortened, tiny
from tiny_task import RandomTask
from tiny_tracing import FEW, discovery, random_study, tracing

PARTS = "judged,changed,rest"


class ContinuedTask(RandomTask):
    """Random prompts whose answers are two tokens and three."""

    def pairs(self, *args: Any, **options: Any) -> Pairs:
        drawn = super().pairs(*args, **options)
        generator = torch.Generator().manual_seed(len(drawn))
        right, wrong = (torch.randint(3, 60, (len(drawn), 1, size), generator=generator) for size in (2, 3))
        none = drawn.right[:, :0]
        return replace(drawn, right=none, wrong=none, continued=Continuations(right, wrong))


@pytest.fixture(scope="module")
def subject() -> Subject:
    return tiny("llama")


@pytest.fixture(scope="module")
def pairs(subject: Subject) -> Pairs:
    """Rows of several lengths in which the prompts differ at two positions."""
    drawn = random_pairs(subject, 5, 9, 3)
    clean = shortened(drawn.clean)
    ids = clean.ids.clone()
    ids[:, 2:4] = (ids[:, 2:4] - 2) % 60 + 3
    return replace(drawn, clean=clean, corrupt=replace(clean, ids=ids))


# -- positions --------------------------------------------------------------------------------------------------------


def test_a_token_is_of_one_part(pairs: Pairs) -> None:
    where = places(pairs, ("judged", "changed", "rest"))
    for row in range(len(pairs)):
        last = int(pairs.clean.at[row])
        expected = [2, 2, 1, 1, *[2] * (last - 4), 0, *[3] * (8 - last)]
        assert where[row].tolist() == expected
    assert (places(pairs, ("changed",)) == 0).sum() == 2 * len(pairs)


def test_a_part_is_replaced_where_it_is_and_nowhere_else(subject: Subject, pairs: Pairs) -> None:
    site, rows = Site(1, Kind.HEAD), torch.tensor([3, 1])
    few = pairs[rows]
    with torch.no_grad():
        other = subject.record(few.corrupt, [site])[1][site]

        def by_hand(act: Tensor) -> Tensor:
            act = act.clone()
            act[:, 2:4, 1] = other[:, 2:4, 1]
            return act

        with subject.editing({site: by_hand}):
            expected = subject.logits(few.clean)
        gate = torch.ones(2, subject.units(Kind.HEAD))
        gate[1, 1] = 0
        parts = Replacement(subject, pairs, [site], "odds-ratio", parts=("judged", "changed"))
        found = parts.run(rows, {site: gate})
        several = parts.run(rows, {site: torch.stack([gate, torch.ones_like(gate)])})
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(several[0], expected[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(several[1], parts.base_logits[rows[1]], rtol=1e-4, atol=1e-4)


def test_all_parts_together_are_all_positions(subject: Subject, pairs: Pairs) -> None:
    sites = subject.sites(Kind.HEAD, Kind.MLP)
    whole, parts = (
        Replacement(subject, pairs, sites, "odds-ratio", parts=each) for each in ((), ("rest", "judged", "changed"))
    )
    torch.testing.assert_close(whole.whole, parts.whole, rtol=1e-4, atol=1e-4)


def test_the_best_of_all_sets_at_parts_is_found_saved_and_scored(tmp_path: Path) -> None:
    subject, task = random_study("gpt2")
    method = CausalTracing(k=2, positions="judged,rest", pairs=8, validation=4, kinds="mlp")
    study = tracing(method, subject, task)
    assert len(study.components) == 4
    sets = torch.tensor([each for each in product([False, True], repeat=4) if sum(each) == 2])
    circuit = method.find(subject, task)
    assert discovery(circuit) == pytest.approx(float(study.values(sets).max()), abs=1e-4)
    circuit.save(tmp_path)
    again = Circuit.load(tmp_path)
    assert again.file() == circuit.file() and set(circuit.file().positions or {}) == {"judged", "rest"}
    assert sum(map(len, (again.file().positions or {}).values())) == 2
    found = evidence(subject, again, task, n=8, controls=3)
    held = study.replacing
    assert found.circuit.effect is not None and held is not None
    test = Replacement(
        subject, task.pairs(None, 8, seed=0, split="test"), study.sites, "odds-ratio", parts=("judged", "rest")
    )
    gates = {
        site: 1 - torch.stack([kept[site] for kept in (again.positions or {}).values()]).float() for site in again.kept
    }
    assert found.circuit.effect.mean == pytest.approx(float(test.change(test.logits(gates)).mean()), abs=1e-4)
    assert found.setting is not None and found.setting.positions == "judged,rest"
    tokens = token_effects(subject, again, task, found)
    for row in tokens.prompts:
        assert sum(sum(map(sum, layers)) for layers in row.effects.values()) == pytest.approx(row.gain, abs=0.02)


def test_each_position_needs_prompts_of_one_length(subject: Subject, pairs: Pairs) -> None:
    random, task = random_study()
    method = CausalTracing(k=1, positions="each", pairs=4, validation=2, kinds="mlp")
    length = task.pairs(None, 4).clean.ids.shape[1]
    assert len(tracing(method, random, task).components) == 2 * length
    with pytest.raises(DataError, match="6 to 9 tokens, so that their positions have no common number"):
        _ = CausalTracing(positions="each", k=1, kinds="mlp").find(random, _Fixed(random, pairs))
    with pytest.raises(UnknownName, match="no position 'judgd'; did you mean 'judged'"):
        CausalTracing(positions="judgd")


class _Fixed(RandomTask):
    """Always the same pairs."""

    def __init__(self, subject: Subject, pairs: Pairs) -> None:
        super().__init__(subject)
        self.own = pairs

    def pairs(self, *args: Any, **options: Any) -> Pairs:
        return self.own


# -- costs ------------------------------------------------------------------------------------------------------------


def test_costs_are_sizes_over_the_smallest() -> None:
    subject = tiny("llama")
    config = subject.model.config
    kinds = [Kind.HEAD, Kind.MLP]
    units = Components.of(subject, kinds, cost="units").costs
    channels = subject.layout.channels
    assert sorted(set(units.tolist())) == sorted({1.0, config.hidden_size / channels})
    parameters = Components.of(subject, kinds, cost="parameters").costs
    mlp = 3 * config.hidden_size * config.intermediate_size
    head = config.hidden_size * channels * (2 + 2 * config.num_key_value_heads / config.num_attention_heads)
    assert float(parameters.max()) == pytest.approx(max(mlp, head) / min(mlp, head))
    groups = Components.of(subject, [Kind.NEURON], 5, cost="units").costs
    last = subject.units(Kind.NEURON) % 5 or 5
    assert sorted({round(each, 4) for each in groups.tolist()}) == sorted({1.0, round(5 / last, 4)})


def test_the_projection_onto_a_budget_of_costs_is_the_nearest_point() -> None:
    generator = torch.Generator().manual_seed(0)
    x, costs = torch.randn(6, generator=generator), torch.tensor([1.0, 1, 2, 3, 5, 8])
    found = capped_simplex(x, 7.0, costs)
    assert float(costs @ found) == pytest.approx(7, abs=1e-4)
    for _ in range(200):
        other = torch.rand(6, generator=generator)
        other = other * 7 / float(costs @ other)
        if bool((other <= 1).all()):
            assert float((found - x).norm()) <= float((other - x).norm()) + 1e-5


@pytest.mark.parametrize("search", ["gates", "singles", "greedy", "random", "dcm"])
def test_no_search_goes_beyond_a_budget_of_costs_and_none_leaves_room(search: str) -> None:
    subject, task = random_study("gpt2")
    method = CausalTracing(search=search, cost="parameters", budgets="3,6", steps=4, **FEW)
    study = tracing(method, subject, task)
    costs, small = study.components.costs, None
    for circuit, k in zip(method.family(subject, task), (3, 6), strict=True):
        price = circuit.origin.result["price"]
        assert price <= k * 1.001
        mask = torch.cat([circuit.kept[site].float() for site in study.components.places])
        assert price == pytest.approx(float(mask @ costs))
        outside = costs[mask == 0]
        assert not len(outside) or price + float(outside.min()) > k
        assert small is None or search not in ("gates", "greedy") or bool((mask >= small).all())
        small = mask


def test_a_costly_component_comes_in_only_for_its_price() -> None:
    """Values by hand: the best by value for cost, then what fits."""
    components = Components({}, torch.tensor([1.0, 1, 1, 4]))
    values = torch.tensor([0.1, 0.3, 0.2, 0.9])
    assert fitting(values, components, 4).tolist() == [False, False, False, True]
    assert fitting(values, components, 3).tolist() == [True, True, True, False]
    assert fitting(values, components, 6).tolist() == [False, True, True, True]


def test_with_costs_the_search_is_near_the_optimum() -> None:
    subject, task = random_study("llama")
    method = CausalTracing(cost="parameters", k=5, **FEW)
    study = tracing(method, subject, task)
    every = torch.tensor(list(product([False, True], repeat=10)))
    every = every[study.components.cost(every) <= 5.0005]
    best = float(study.values(every).max())
    assert discovery(method.find(subject, task)) > 0.95 * best


# -- answers of several tokens ----------------------------------------------------------------------------------------


def log_odds(subject: Subject, prompts: Prompts, other: Prompts | None, answers: Continuations) -> Tensor:
    """By a pass for each answer, its tokens' log probabilities read off one by one; heads as in the other prompts."""
    found, sites = [], subject.sites(Kind.HEAD) if other else []
    for row in range(len(prompts)):
        ids = prompts.ids[row][prompts.mask[row]].tolist()
        values = subject.record(other[[row]], sites)[1] if other else {}
        edits = {site: lambda act, own=values[site]: torch.cat([own, act[:, own.shape[1] :]], 1) for site in sites}
        sides = []
        for side in (answers.right, answers.wrong):
            own = [[token for token in answer if token >= 0] for answer in side[row].tolist()]
            each = []
            for answer in filter(None, own):
                whole = torch.tensor([ids + answer])
                with torch.no_grad(), subject.editing(edits):
                    logits = subject.model(input_ids=whole).logits[0].float().log_softmax(-1)
                at = range(len(ids) - 1, len(ids) + len(answer) - 1)
                each.append(torch.stack([logits[i, token] for i, token in zip(at, answer, strict=True)]).mean())
            sides.append(torch.stack(each).logsumexp(0))
        found.append(sides[0] - sides[1])
    return torch.stack(found)


@pytest.fixture(scope="module")
def long(pairs: Pairs) -> Pairs:
    """Answers of one to three tokens; one row has a second wrong one."""
    right = torch.tensor([[[5, -1]], [[6, 7]], [[8, 9]], [[5, 6]], [[7, 7]]])
    wrong = torch.full((5, 2, 3), -1)
    wrong[:, 0] = torch.tensor([[9, 10, 11], [12, -1, -1], [13, 14, -1], [9, 9, 9], [10, 11, -1]])
    wrong[2, 1, 0] = 20
    return replace(pairs, right=pairs.right[:, :0], wrong=pairs.wrong[:, :0], continued=Continuations(right, wrong))


@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_odds_of_several_tokens_are_those_of_their_mean_log_probability(
    subject: Subject, long: Pairs, direction: Any
) -> None:
    assert long.continued is not None
    first, second = (long.clean, long.corrupt) if direction == "noise" else (long.corrupt, long.clean)
    found = Replacement(subject, long, subject.sites(Kind.HEAD), "odds-ratio", direction=direction, batch_size=2)
    base, whole = (log_odds(subject, first, other, long.continued) for other in (None, second))
    torch.testing.assert_close(found.base, base, rtol=1e-3, atol=1e-3)
    moved = base - whole if direction == "noise" else whole - base
    torch.testing.assert_close(found.whole, moved, rtol=1e-3, atol=1e-3)
    assert moved.abs().min() > 1e-3
    nothing = {site: torch.ones(subject.units(site.kind)) for site in subject.sites(Kind.HEAD)}
    assert torch.equal(found.change(found.logits(nothing)), torch.zeros(len(long)))


@pytest.mark.parametrize("metric", METRICS)
def test_a_continuation_of_one_token_is_judged_like_a_token(subject: Subject, pairs: Pairs, metric: str) -> None:
    single = replace(pairs, right=pairs.right[:, :1], wrong=pairs.wrong[:, :1])
    answers = Continuations(single.right[:, :, None], single.wrong[:, :, None])
    as_long = replace(single, right=single.right[:, :0], wrong=single.wrong[:, :0], continued=answers)
    short, long = (Replacement(subject, each, subject.sites(Kind.HEAD), metric) for each in (single, as_long))
    expected = short.whole
    if metric == "kl":  # over the answers there are, and not over the vocabulary
        both = torch.cat([single.right, single.wrong], 1)
        whole = short.logits(short.closed(subject.sites(Kind.HEAD)))
        expected = metrics.kl(short.base_logits.gather(1, both), whole.gather(1, both))
    torch.testing.assert_close(long.whole, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("fill", ["noise", "mean", "zero"])
def test_every_reference_takes_answers_of_several_tokens(subject: Subject, long: Pairs, fill: Any) -> None:
    found = Replacement(subject, long, subject.sites(Kind.HEAD), "probability", fill=fill, parts=("changed",))
    assert found.whole.isfinite().all() and found.whole.abs().max() > 1e-5
    if fill == "noise":
        back = Replacement(subject, long, subject.sites(Kind.HEAD), "probability", fill=fill, direction="denoise")
        assert back.whole.isfinite().all()


def test_a_tracing_of_long_answers_is_found_and_scored() -> None:
    subject, _ = random_study("llama")
    task = ContinuedTask(subject)
    method = CausalTracing(k=3, **FEW)
    study = tracing(method, subject, task)
    every = torch.tensor([each for each in product([False, True], repeat=10) if sum(each) == 3])
    circuit = method.find(subject, task)
    assert discovery(circuit) == pytest.approx(float(study.values(every).max()), abs=1e-4)
    found = evidence(subject, circuit, task, n=8, controls=2)
    assert found.circuit.effect is not None
    difference = found.full.logit_difference.mean - found.circuit.logit_difference.mean
    assert found.circuit.effect.mean == pytest.approx(difference, abs=1e-4)
    assert len(token_effects(subject, circuit, task, found).prompts) == 8


def test_what_judges_one_token_refuses_long_answers() -> None:
    with pytest.raises(DataError, match="the answers of these prompts are several tokens"):
        metrics.logit_difference(torch.zeros(2, 5), torch.zeros(2, 0, dtype=torch.long), torch.ones(2, 1).long())


# -- rivals -----------------------------------------------------------------------------------------------------------


def test_budget_curves_have_every_search_at_every_size(tmp_path: Path) -> None:
    subject, task = random_study("gpt2")
    method = CausalTracing(budgets="2,4", exact=0, **FEW)
    family = method.family(subject, task)
    found = budget_curves(subject, family, task, ("singles", "greedy", "random", "dcm"), n=8)
    found.save(tmp_path)
    assert BudgetCurves.load(tmp_path) == found and found.own == "gates"
    assert {*found.curves} == {"gates", "singles", "greedy", "random", "dcm"}
    assert all([point.size for point in points] == [2, 4] for points in found.curves.values())
    greedy = replace(method, search="greedy").family(subject, task)
    assert [point.discovery for point in found.curves["greedy"]] == pytest.approx([discovery(each) for each in greedy])
    mine, theirs = ({*points[1].nodes} for points in (found.curves["gates"], found.curves["greedy"]))
    assert found.overlap["greedy"][1] == pytest.approx(len(mine & theirs) / len(mine | theirs))
    held = evidence(subject, family[1], task, n=8, controls=1).circuit.effect
    assert held is not None and found.curves["gates"][1].effect.mean == pytest.approx(held.mean, abs=1e-5)
    with pytest.raises(UnknownName, match="no rival 'gredy'; did you mean 'greedy'"):
        budget_curves(subject, family, task, ["gredy"])


def test_a_mask_with_a_penalty_starts_from_nothing_and_follows_its_formula() -> None:
    """Adam's first step moves every share by the learning rate, up where a slope is above the penalty."""
    subject, task = random_study("gpt2")
    method = CausalTracing.dcm(k=2, steps=1, lr=0.1, penalty=0.02, **FEW)
    _, slopes = tracing(method, subject, task).slopes(torch.zeros(10))
    study = tracing(method, subject, task)
    sets, m = method.sets(study, [2])
    torch.testing.assert_close(m, torch.where(slopes > 0.02, 0.1, 0.0), rtol=0, atol=1e-4)
    assert int(sets[0].sum()) == 2
    with pytest.raises(UsageError, match="of attribution"):
        budget_curves(subject, [_renamed(method.find(subject, task))], task, ["singles"])


def _renamed(circuit: Circuit) -> Circuit:
    return circuit.with_origin(circuit.origin.model_copy(update={"method": "attribution-patching"}))
