"""Node pruning's own promises: budgets and sizes that hold, families that nest, every option at work."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from subcircuit.circuit import Circuit, sizes, tidy
from subcircuit.errors import Interrupted, NumericalError, SubcircuitError, UnknownName, UsageError
from subcircuit.intervention import Reference, acting, masked_logits
from subcircuit.methods.node_pruning import NodePruning
from subcircuit.metrics import kl
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from tiny import tiny
from tiny_task import RandomTask, planted_study

QUICK = NodePruning(kl=0.3, pairs=16, validation=12, batch=8, steps=12, lr=0.3, polish=3)


@pytest.fixture(scope="module")
def study() -> tuple[Subject, RandomTask]:
    """A random model, in which everything matters a little. Its logits are scaled so that the empty circuit's KL is
    about 1.3 nats, above the budgets of these tests.
    """
    subject = Subject(tiny("llama").model, planted_study()[0].tokenizer, name="tiny-llama")
    subject.model.get_output_embeddings().weight.mul_(0.7)
    return subject, RandomTask(subject)


def test_a_family_nests_and_every_member_keeps_its_budget(study: tuple[Subject, RandomTask]) -> None:
    subject, task = study
    budgets = [0.1, 0.3, 1.0]
    circuits = replace(QUICK, budgets="0.3,1,0.1").family(*study)
    assert [circuit.origin.result["budget"] for circuit in circuits] == budgets
    assert [circuit.origin.settings["kl"] for circuit in circuits] == budgets
    for larger, smaller in pairwise(circuits):
        assert all((truth <= larger.kept[site]).all() for site, truth in smaller.kept.items())
        assert sum(size.kept for size in smaller.sizes.values()) < sum(size.kept for size in larger.sizes.values())
    for circuit, budget in zip(circuits, budgets, strict=True):
        assert circuit.origin.result["kl"] == pytest.approx(_kl(subject, task, circuit), abs=1e-6)
        assert circuit.origin.result["kl"] <= budget


def test_a_family_interrupted_in_a_later_round_ends_the_same(study: tuple[Subject, RandomTask], tmp_path: Path) -> None:
    """The first circuit is remembered: by then the gates that it was read from have moved on."""
    method, rounds = replace(QUICK, budgets="0.1,1"), [0]
    whole = method.family(*study)

    def stop_in_the_second_round(phase: str, done: int, total: int, **facts: float) -> None:
        rounds[0] += phase == "gates" and done == 1
        if rounds[0] == 2 and done == 4:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="stopped after step 4 of 6") as stop:
        method.family(*study, folder=tmp_path / "new" / "run", progress=stop_in_the_second_round)
    assert "--resume" in stop.value.cure
    resumed = method.family(*study, folder=tmp_path / "new" / "run")
    for mine, theirs in zip(resumed, whole, strict=True):
        assert all(torch.equal(mine.kept[site], truth) for site, truth in theirs.kept.items())
        assert all(torch.equal(mine.scores[site], score) for site, score in theirs.scores.items())
        assert mine.origin.result == theirs.origin.result


def test_the_state_of_another_search_is_refused(study: tuple[Subject, RandomTask], tmp_path: Path) -> None:
    """The same settings, but other prompts, and then another model."""
    subject, task = study
    QUICK.find(subject, task, folder=tmp_path)
    for other in ((subject, RandomTask(subject, length=7)), planted_study()):
        with pytest.raises(UsageError, match="was started with other settings"):
            QUICK.find(*other, folder=tmp_path)


def test_without_a_folder_an_interruption_is_the_callers(study: tuple[Subject, RandomTask]) -> None:
    def stop(phase: str, done: int, total: int, **facts: float) -> None:
        if phase == "gates":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        QUICK.find(*study, progress=stop)


def test_a_budget_of_next_to_nothing_is_met_by_the_whole_model(study: tuple[Subject, RandomTask]) -> None:
    """Everything matters here, so nothing may be closed; with all nodes open KL is exactly 0."""
    circuit = replace(QUICK, kl=1e-12).find(*study)
    assert circuit.origin.result["kl"] == 0
    assert all(size.kept == size.total for size in circuit.sizes.values())


@pytest.mark.parametrize("size", [0.2, 0.5])
def test_a_target_size_is_respected(study: tuple[Subject, RandomTask], size: float) -> None:
    circuit = replace(QUICK, size=size).find(*study)
    kept = {kind: torch.stack([circuit.kept[site] for site in sorted(_of(circuit, kind))]) for kind in circuit.sizes}
    channels, neurons = kept[Kind.CHANNEL].sum(), kept[Kind.NEURON].sum()
    cost = float(kept[Kind.HEAD].sum() * 384 + channels * 48 + neurons * 96)  # counted by hand in test_costs.py
    share = cost / (2 * (4 * 384 + 32 * 48 + 48 * 96))
    assert 0.9 * size <= share <= size
    assert "budget" not in circuit.origin.result


@pytest.mark.parametrize("gates", ["median", "straight-through", "sampled"])
def test_penalties_per_granularity_close_the_nodes_they_weigh_on(study: tuple[Subject, RandomTask], gates: str) -> None:
    free = replace(QUICK, weights="head=0.001,neuron=0.001", gates=gates, warm_start=0, steps=40).find(*study)
    dear = replace(QUICK, weights="head=0.001,neuron=1000", gates=gates, warm_start=0, steps=40).find(*study)
    assert dear.sizes[Kind.NEURON].kept < free.sizes[Kind.NEURON].kept
    assert "budget" not in dear.origin.result


def test_the_published_form_runs(study: tuple[Subject, RandomTask]) -> None:
    method = NodePruning.paper(steps=5, pairs=8, validation=4, batch=8)
    assert (method.gates, method.warm_start, method.polish) == ("sampled", 0, 0)
    circuit = method.find(*study)
    assert set(circuit.sizes) == {Kind(k) for k in ("attn", "mlp", "head", "channel", "neuron", "mlp_out")}
    with pytest.raises(UnknownName, match="no setting 'step'; did you mean 'steps'"):
        NodePruning.paper(step=5)


@pytest.mark.parametrize("kinds", ["head,neuron", "block,head", "attn,channel,mlp,mlp_out", "head,channel,kv", "mlp"])
def test_any_set_of_granularities_makes_a_valid_circuit(study: tuple[Subject, RandomTask], kinds: str) -> None:
    circuit = replace(QUICK, kinds=kinds).find(*study)
    assert set(circuit.sizes) == {Kind(kind) for kind in kinds.split(",")}
    assert sizes(tidy(circuit.kept)) == circuit.sizes
    assert circuit.origin.result["kl"] <= 0.3


@pytest.mark.parametrize("reference", ["corrupt", "mean", "zero", "resample"])
def test_every_reference_finds_the_planted_heads(reference: str) -> None:
    circuit = replace(QUICK, kl=0.01, steps=30, reference=reference, kinds="head,neuron").find(*planted_study())
    assert [str(node) for node in circuit.nodes(Kind.HEAD)] == ["0.head.1", "1.head.2"]
    assert circuit.origin.reference == reference


@pytest.mark.parametrize("cost", ["parameters", "nodes", "flops"])
def test_every_cost_finds_the_planted_heads(cost: str) -> None:
    circuit = replace(QUICK, kl=0.01, steps=30, cost=cost).find(*planted_study())
    assert [str(node) for node in circuit.nodes(Kind.HEAD)] == ["0.head.1", "1.head.2"]


def test_gates_find_the_planted_circuit_also_without_a_warm_start() -> None:
    circuit = replace(QUICK, kl=0.001, steps=80, warm_start=0).find(*planted_study())
    assert [str(node) for node in circuit.nodes(Kind.HEAD)] == ["0.head.1", "1.head.2"]
    assert [str(node) for node in circuit.nodes(Kind.NEURON)] == ["0.neuron.3", "1.neuron.5", "1.neuron.30"]


def test_the_cache_changes_nothing_but_memory(study: tuple[Subject, RandomTask]) -> None:
    cached, fresh = (replace(QUICK, cache_gb=size).find(*study) for size in (1.0, 0.0))
    assert cached.origin.result["cache_bytes"] > 0 == fresh.origin.result["cache_bytes"]
    assert all(torch.equal(truth, fresh.kept[site]) for site, truth in cached.kept.items())
    for site, score in cached.scores.items():
        torch.testing.assert_close(fresh.scores[site], score, rtol=1e-4, atol=1e-4)


def test_the_price_of_the_budget_rises_while_it_is_broken_and_falls_once_it_holds() -> None:
    told: list[dict[str, float]] = []

    def listen(phase: str, done: int, total: int, **facts: float) -> None:
        if phase == "gates":
            told.append(facts)

    replace(QUICK, kl=0.01, steps=60).find(*planted_study(), progress=listen)
    prices, broken = [facts["price"] for facts in told], [facts["kl"] > 0.01 for facts in told]
    first = broken.index(True)  # too much was closed
    assert prices[1] < prices[0] and prices[first + 3] > 2 * prices[first - 1]
    assert not broken[-1] and prices[-1] < max(prices) / 2


def test_a_gradient_that_is_not_finite_leaves_the_state_of_the_step_before(
    study: tuple[Subject, RandomTask], tmp_path: Path
) -> None:
    """The forward pass is sound; the hook makes infinity of what flows back."""
    subject, task = study
    whole = QUICK.find(subject, task)
    module = subject.module(1, "mlp")
    handles: list[RemovableHandle] = []

    def explode(module: nn.Module, grads: tuple[Tensor, ...], _: object) -> tuple[Tensor, ...]:
        return tuple(grad * torch.inf for grad in grads)

    def break_at_five(phase: str, done: int, total: int, **facts: float) -> None:
        if phase == "gates" and done == 5:
            handles.append(module.register_full_backward_hook(explode))

    with pytest.raises(NumericalError, match="the gradient of the gates is not finite at step 6"):
        QUICK.find(subject, task, folder=tmp_path, progress=break_at_five)
    handles[0].remove()
    resumed = QUICK.find(subject, task, folder=tmp_path)
    assert all(torch.equal(resumed.scores[site], score) for site, score in whole.scores.items())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kl": 0}, "a KL budget of 0"),
        ({"budgets": "0.1,x"}, "budgets are '0.1,x'"),
        ({"budgets": "0.1,-1"}, "a KL budget of -1"),
        ({"size": 1.5}, "size is 1.5"),
        ({"size": 0.2, "budgets": "0.1,0.3"}, "budgets and size are different goals"),
        ({"steps": 0}, "steps is 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"open": 20}, "open is 20"),
        ({"kinds": "head,nueron"}, "no granularity 'nueron'; did you mean 'neuron'"),
        ({"weights": "heads=1"}, "no gated granularity 'heads'; did you mean 'head'"),
        ({"weights": "head=much"}, "the weight of head is 'much'"),
        ({"gates": "mean"}, "'mean'; did you mean 'median'"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_once(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as refusal:
        NodePruning(**settings)  # type: ignore[arg-type]
    assert words in refusal.value.message


@pytest.mark.parametrize(("name", "value"), [("reference", "corupt"), ("cost", "flop")])
def test_unknown_words_are_refused_with_the_nearest(study: tuple[Subject, RandomTask], name: str, value: str) -> None:
    with pytest.raises(SubcircuitError, match="did you mean"):
        replace(QUICK, **{name: value}).find(*study)  # type: ignore[arg-type]


# -- the words of these tests ---------------------------------------------------------------------------------------


def _of(circuit: Circuit, kind: Kind) -> list[Site]:
    return [site for site in circuit.kept if site.kind is kind]


def _kl(subject: Subject, task: RandomTask, circuit: Circuit) -> float:
    """On the validation prompts, computed afresh."""
    pairs = task.pairs(subject.tokenizer, QUICK.validation, seed=0, split="validation")
    reference = Reference(subject, "corrupt", pairs.clean, pairs.corrupt, acting(circuit.kept))
    logits = masked_logits(subject, pairs.clean, circuit.mask(), reference)
    return float(kl(masked_logits(subject, pairs.clean, {}, reference), logits).mean())
