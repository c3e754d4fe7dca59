"""Attribution is complete, scores become circuits by one rule, and settings that make no sense are refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from subcircuit.circuit import matched, sizes, tidy
from subcircuit.errors import UsageError
from subcircuit.evaluation import evidence
from subcircuit.methods._ranked import Ranking, fine
from subcircuit.methods.activation_patching import ActivationPatching
from subcircuit.methods.attribution_patching import AttributionPatching
from subcircuit.methods.greedy_removal import GreedyRemoval
from subcircuit.methods.random import Random
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs
from tiny import HEADS, NEURONS, random_pairs, tiny
from tiny_task import RandomTask, planted_study

PATCH = ActivationPatching(size=0.5, pairs=6, validation=4)


@pytest.fixture(scope="module")
def study() -> tuple[Subject, RandomTask]:
    """A random model, in which everything matters a little."""
    subject = Subject(tiny("llama").model, planted_study()[0].tokenizer, name="tiny-llama")
    return subject, RandomTask(subject)


# -- attribution -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["logit-difference", "kl"])
def test_integrated_attributions_are_complete(study: tuple[Subject, RandomTask], objective: str) -> None:
    """All heads and MLPs together move the model from its corrupted branches to its own: a closed form by hooks."""
    subject, pairs = study[0], random_pairs(study[0], 6, 7)
    method = AttributionPatching(size=0.5, kinds="head,mlp", objective=objective, steps=50)
    scores = method.find(*study, pairs).scores
    full, empty = subject.model(pairs.clean.ids).logits[:, -1], _all_closed(subject, pairs)
    rows, p = torch.arange(6), full.softmax(-1)
    gap = (p * (p.log() - empty.log_softmax(-1))).sum(-1).mean()
    if objective == "logit-difference":
        (right, wrong) = (answers[:, 0] for answers in (pairs.right, pairs.wrong))
        gap = ((full - empty)[rows, right] - (full - empty)[rows, wrong]).mean()
    assert sum(float(score.sum()) for score in scores.values()) == pytest.approx(float(gap), rel=0.01)


def test_a_branch_has_the_sum_of_its_parts_and_every_granularity_is_scored(study: tuple[Subject, RandomTask]) -> None:
    circuit = AttributionPatching(pairs=6, validation=4, size=0.3).find(*study)
    assert list(circuit.sizes) == [Kind(k) for k in ("block", "attn", "mlp", "head", "channel", "neuron")]
    heads, channels = (circuit.scores[Site(0, kind)] for kind in (Kind.HEAD, Kind.CHANNEL))
    torch.testing.assert_close(heads, channels.view(4, 8).sum(1))


# -- from scores to a circuit ----------------------------------------------------------------------------------------


def test_a_share_is_kept_of_each_granularity_by_hand() -> None:
    scores = {
        Site(0, Kind.HEAD): torch.tensor([0.1, -3.0, 0.0, 0.0]),
        Site(1, Kind.HEAD): torch.tensor([2.0, 0.2, 0.0, 0.0]),
        Site(0, Kind.MLP): torch.tensor([-0.5]),
        Site(1, Kind.MLP): torch.tensor([0.4]),
    }

    def kept(rank: str, share: float, **how: bool) -> list[str]:
        truth = Ranking([Kind.HEAD, Kind.MLP], scores, rank).top(share, **how)
        return [f"{site}.{unit}" for site in sorted(truth) for unit in truth[site].nonzero()[:, 0].tolist()]

    assert kept("magnitude", 0.25) == ["0.head.1", "0.mlp.0", "1.head.0"]
    assert kept("signed", 0.25) == ["1.head.0", "1.head.1", "1.mlp.0"]
    # four of eight heads are worth nothing, and a budget would not pay for them
    assert len(kept("magnitude", 0.9)) == 4 + 2
    assert len(kept("magnitude", 0.9, silent_too=True)) == 8 + 2
    assert len(kept("magnitude", 1.0)) == 8 + 2
    assert kept("magnitude", 0.0) == []


@pytest.mark.parametrize(
    ("kinds", "chosen"),
    [
        ("block,attn,mlp,head,channel,neuron", "channel,neuron"),
        ("head,mlp", "head,mlp"),
        ("attn,head,mlp", "head,mlp"),
        ("block,head", "block,head"),  # of a block only one branch is spoken for
        ("block,head,mlp", "head,mlp"),
        ("attn,kv", "attn,kv"),  # a branch is not made of its keys and values
        ("q,k,v,neuron", "q,k,v,neuron"),
        ("mlp,mlp_out,neuron", "mlp_out,neuron"),
    ],
)
def test_coarse_granularities_follow_from_fine_ones(kinds: str, chosen: str) -> None:
    assert set(fine([Kind(kind) for kind in kinds.split(",")])) == {Kind(kind) for kind in chosen.split(",")}


@pytest.mark.parametrize("size", [0.1, 0.5, 1.0])
def test_a_size_is_kept_of_every_fine_granularity(study: tuple[Subject, RandomTask], size: float) -> None:
    """Of 8 heads and 96 neurons, rounded up."""
    for method in (PATCH, AttributionPatching(pairs=6, validation=4), Random(validation=4)):
        circuit = replace(method, kinds="head,neuron", size=size).find(*study)
        found = {kind: kept.kept for kind, kept in circuit.sizes.items()}
        assert found == {Kind.HEAD: {0.1: 1, 0.5: 4, 1.0: 8}[size], Kind.NEURON: {0.1: 10, 0.5: 48, 1.0: 96}[size]}
        assert circuit.origin.result["share"] == size


def test_a_budget_takes_the_smallest_share_that_meets_it(study: tuple[Subject, RandomTask]) -> None:
    """By trying every share from nothing on; KL falls with the share here."""
    method = replace(PATCH, size=None, kl=0.5, kinds="head,neuron", rank="signed")
    circuit = method.find(*study)
    share = circuit.origin.result["share"]
    assert 0 < share < 1 and circuit.origin.result["kl"] <= 0.5
    smaller = replace(method, size=share - 1 / 96).find(*study)
    assert smaller.origin.result["kl"] > 0.5
    assert all((truth <= circuit.kept[site]).all() for site, truth in smaller.kept.items())


def test_a_budget_that_only_the_whole_model_meets_keeps_it(
    study: tuple[Subject, RandomTask], caplog: pytest.LogCaptureFixture
) -> None:
    circuit = replace(PATCH, size=None, kl=1e-12).find(*study)
    assert circuit.origin.result == circuit.origin.result | {"kl": 0, "share": 1}
    assert "everything is kept" in caplog.text


@pytest.mark.parametrize("kinds", ["q,k,v", "head,q,k,v,mlp", "attn,kv,neuron", "k", "block,attn,mlp,head,channel,q"])
def test_queries_keys_and_values_make_circuits_that_can_be_scored(
    study: tuple[Subject, RandomTask], kinds: str
) -> None:
    subject, task = study
    circuit = AttributionPatching(pairs=6, validation=4, size=0.5, kinds=kinds).find(subject, task)
    assert sizes(tidy(circuit.kept)) == circuit.sizes
    assert sizes(matched(circuit.kept, circuit.scores)) == circuit.sizes
    found = evidence(subject, circuit, task, n=6, controls=2)
    assert found.circuit.kl.mean < found.empty.kl.mean


# -- planted, and by lot ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gpt_neox", "qwen2"])
@pytest.mark.parametrize(
    "method",
    [
        ActivationPatching(kl=0.01, pairs=8, validation=8, direction="both", metric="kl"),
        ActivationPatching(kl=0.01, pairs=8, validation=8, direction="denoise"),
        ActivationPatching(kl=0.01, pairs=8, validation=8, reference="mean"),
        AttributionPatching(kl=0.01, pairs=16, validation=8, objective="kl", steps=5),
        AttributionPatching(kl=0.01, pairs=16, validation=8, reference="zero"),
    ],
    ids=["patching kl", "denoise", "mean", "integrated kl", "zero"],
)
def test_every_variant_finds_the_planted_circuit(family: str, method: ActivationPatching | AttributionPatching) -> None:
    circuit = replace(method, kinds="head,neuron").find(*planted_study(family))
    assert [(node.site.layer, node.unit) for node in circuit.nodes(Kind.HEAD)] == HEADS
    assert [(node.site.layer, node.unit) for node in circuit.nodes(Kind.NEURON)] == NEURONS


def test_another_seed_draws_another_circuit(study: tuple[Subject, RandomTask]) -> None:
    first, same, other = (Random(size=0.5, seed=seed, validation=4).find(*study) for seed in (0, 0, 1))
    assert all(torch.equal(truth, same.kept[site]) for site, truth in first.kept.items())
    assert any(not torch.equal(truth, other.kept[site]) for site, truth in first.kept.items())


# -- bad settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        (ActivationPatching, {"kl": 0.0}, "a KL budget of 0 nats"),
        (ActivationPatching, {"size": 1.5}, "size is 1.5"),
        (ActivationPatching, {"rank": "sign"}, "did you mean 'signed'"),
        (ActivationPatching, {"kinds": "head,nueron"}, "no granularity 'nueron'; did you mean 'neuron'"),
        (ActivationPatching, {"kinds": "resid"}, "no granularity 'resid'"),
        (ActivationPatching, {"direction": "noising"}, "no direction 'noising'; did you mean 'noise'"),
        (ActivationPatching, {"metric": "logit-diff"}, "did you mean 'logit-difference'"),
        (ActivationPatching, {"direction": "both", "reference": "zero"}, "direction both with reference zero"),
        (ActivationPatching, {"limit": 0}, "limit is 0"),
        (AttributionPatching, {"objective": "kl"}, "the gradient of KL is 0 at the full model"),
        (AttributionPatching, {"steps": 0}, "steps is 0"),
        (AttributionPatching, {"objective": "logits"}, "no objective 'logits'"),
        (Random, {"reference": "corupt"}, "did you mean 'corrupt'"),
        (Random, {"pairs": 0}, "pairs is 0"),
        (Random, {"cache_gb": float("nan")}, "cache_gb is nan"),
        (GreedyRemoval, {"threshold": 0.0}, "threshold is 0"),
        (GreedyRemoval, {"order": "deep"}, "no order 'deep'"),
        (GreedyRemoval, {"seed": -1}, "seed is -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_once(
    method: Callable[..., object], settings: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError) as refusal:
        method(**settings)
    assert words in refusal.value.message


# -- the words of these tests ----------------------------------------------------------------------------------------


def _all_closed(subject: Subject, pairs: Pairs) -> Tensor:
    """The clean run with every branch's output taken from the corrupted run."""
    modules = [subject.model.get_submodule(f"model.layers.{n}.{name}") for n in (0, 1) for name in ("self_attn", "mlp")]
    seen: list[Any] = []
    looks = [module.register_forward_hook(lambda _, args, out: seen.append(out)) for module in modules]
    subject.model(pairs.corrupt.ids)
    for handle in looks:
        handle.remove()
    handles = [
        module.register_forward_hook(lambda _, args, out, value=value: value)
        for module, value in zip(modules, seen, strict=True)
    ]
    logits: Tensor = subject.model(pairs.clean.ids).logits[:, -1]
    for handle in handles:
        handle.remove()
    return logits
