"""Attribution against gradients by hand, against completeness, and on a circuit planted in advance."""

import pytest
import torch
from torch import Tensor

from subcircuit import metrics
from subcircuit.batching import batched
from subcircuit.errors import NumericalError, UnknownName
from subcircuit.gradients import Objective, attribution, coarsen
from subcircuit.intervention import Reference, acting, masked_logits, masking
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs
from tiny import HEADS, NEURONS, planted, random_pairs, tiny

CUT = (Kind.CHANNEL, Kind.NEURON)


def _setting(subject: Subject, sites: list[Site], n: int = 6) -> tuple[Pairs, Reference]:
    pairs = random_pairs(subject, n, seed=3)
    return pairs, Reference(subject, "corrupt", pairs.clean, pairs.corrupt, sites)


def test_one_step_is_gradient_times_what_closing_changes() -> None:
    """By hand: d(logit difference)/d(activation) . (clean - corrupt), from plain hooks on the down projection."""
    subject = tiny("llama")
    site = Site(1, Kind.NEURON)
    pairs, reference = _setting(subject, [site])
    acts: dict[str, Tensor] = {}

    def keep(name: str) -> Tensor:
        def hook(module: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            acts[name] = args[0].detach().requires_grad_()
            return (acts[name],)

        handle = subject.model.get_submodule("model.layers.1.mlp.down_proj").register_forward_pre_hook(hook)
        logits = subject.logits(getattr(pairs, name))
        handle.remove()
        return logits

    keep("corrupt")
    difference = metrics.logit_difference(keep("clean"), pairs.right, pairs.wrong).sum()
    (slope,) = torch.autograd.grad(difference, acts["clean"])
    by_hand = (slope * (acts["clean"] - acts["corrupt"])).sum((0, 1)) / len(pairs)
    found = attribution(subject, pairs, reference, batch_size=4)
    torch.testing.assert_close(found[site], by_hand.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("objective", ["logit-difference", "kl"])
def test_integrated_scores_sum_to_the_effect_of_all_gates_together(objective: Objective) -> None:
    """Completeness: over all gates at once, from all closed to all open."""
    subject = tiny("gpt2")
    sites = subject.sites(*CUT)
    pairs, reference = _setting(subject, sites)
    full = masked_logits(subject, pairs.clean, {}, reference)
    empty = masked_logits(
        subject, pairs.clean, {site: torch.zeros(subject.units(site.kind)) for site in sites}, reference
    )
    if objective == "kl":
        effect = metrics.kl(full, empty).mean()
    else:
        differences = [metrics.logit_difference(logits, pairs.right, pairs.wrong).mean() for logits in (full, empty)]
        effect = differences[0] - differences[1]
    scores = attribution(subject, pairs, reference, objective=objective, steps=60)
    total = sum(float(score.sum()) for score in scores.values())
    assert total == pytest.approx(float(effect), rel=0.004)


@pytest.mark.parametrize(("objective", "steps"), [("logit-difference", 1), ("kl", 4)])
def test_planted_nodes_come_first_and_all_others_get_exactly_nothing(objective: Objective, steps: int) -> None:
    subject = planted("llama")
    pairs, reference = _setting(subject, subject.sites(*CUT))
    scores = attribution(subject, pairs, reference, objective=objective, steps=steps)
    heads = coarsen(subject, {site: score.abs() for site, score in scores.items()}, [Kind.HEAD])
    found_heads = {(site.layer, unit) for site, score in heads.items() for unit in score.nonzero()[:, 0].tolist()}
    neurons = {site: score for site, score in scores.items() if site.kind is Kind.NEURON}
    found_neurons = {(site.layer, unit) for site, score in neurons.items() for unit in score.nonzero()[:, 0].tolist()}
    assert found_heads == set(HEADS)
    assert found_neurons == set(NEURONS)


def test_scores_do_not_depend_on_the_batches() -> None:
    subject = tiny("llama")
    pairs, reference = _setting(subject, subject.sites(*CUT))
    whole, parts = (attribution(subject, pairs, reference, batch_size=size) for size in (6, 4))
    for site, score in whole.items():
        torch.testing.assert_close(parts[site], score, rtol=1e-4, atol=1e-6)


def test_running_out_of_memory_halfway_counts_nothing_twice() -> None:
    """The reference of the second point fails once, as memory would; the first point has been through by then."""
    subject = tiny("llama")
    pairs, reference = _setting(subject, subject.sites(Kind.NEURON))
    calls = iter(range(100))

    class Scarce(Reference):
        def __init__(self) -> None:
            self.sites = reference.sites

        def __call__(self, rows: Tensor) -> dict[Site, Tensor]:
            if next(calls) == 1:
                raise torch.OutOfMemoryError("out of memory")
            return reference(rows)

    scarce, plenty = (attribution(subject, pairs, source, steps=2) for source in (Scarce(), reference))
    for site, score in plenty.items():
        torch.testing.assert_close(scarce[site], score, rtol=1e-4, atol=1e-6)


def test_progress_tells_of_every_prompt_at_every_step() -> None:
    subject = tiny("llama")
    pairs, reference = _setting(subject, [Site(0, Kind.NEURON)], n=5)
    told: list[int] = []
    attribution(subject, pairs, reference, steps=3, batch_size=2, on_step=told.append)
    assert sum(told) == 15


def test_coarse_scores_are_sums_of_their_childrens() -> None:
    subject = tiny("llama")
    generator = torch.Generator().manual_seed(0)
    sites = [Site(1, kind) for kind in (Kind.K, Kind.V, *CUT)]
    scores = {site: torch.randn(subject.units(site.kind), generator=generator) for site in sites}
    coarse = coarsen(subject, scores, [Kind.HEAD, Kind.ATTN, Kind.MLP, Kind.BLOCK, Kind.KV])
    channels, neurons = scores[Site(1, Kind.CHANNEL)], scores[Site(1, Kind.NEURON)]
    torch.testing.assert_close(coarse[Site(1, Kind.HEAD)][2], channels[16:24].sum())
    torch.testing.assert_close(coarse[Site(1, Kind.ATTN)], channels.sum()[None])
    torch.testing.assert_close(coarse[Site(1, Kind.MLP)], neurons.sum()[None])
    torch.testing.assert_close(coarse[Site(1, Kind.BLOCK)], (channels.sum() + neurons.sum())[None])
    torch.testing.assert_close(coarse[Site(1, Kind.KV)], scores[Site(1, Kind.K)] + scores[Site(1, Kind.V)])
    assert {site.kind for site in coarse} == {Kind.HEAD, Kind.ATTN, Kind.MLP, Kind.BLOCK, Kind.KV}


def test_a_sum_is_the_score_of_the_coarse_gate_itself() -> None:
    subject = tiny("gpt2")
    pairs, reference = _setting(subject, acting(subject.sites(Kind.HEAD)))
    by_sum = coarsen(subject, attribution(subject, pairs, reference), [Kind.HEAD])
    site = Site(1, Kind.HEAD)
    gate = torch.ones(4, requires_grad=True)

    def backward(rows: Tensor) -> None:
        with masking(subject, {site: gate}, reference(rows)):
            logits = subject.logits(pairs.clean[rows])
        batch = pairs[rows]
        (metrics.logit_difference(logits, batch.right, batch.wrong).sum() / len(pairs)).backward()

    batched(backward, pairs.clean.lengths, 32)
    assert gate.grad is not None
    torch.testing.assert_close(by_sum[site], gate.grad, rtol=1e-4, atol=1e-6)


def test_a_gradient_that_is_not_finite_is_refused_by_site() -> None:
    subject = tiny("llama")
    pairs, reference = _setting(subject, [Site(0, Kind.NEURON)])
    with torch.no_grad():
        subject.model.get_submodule("model.layers.0.mlp.down_proj").weight.fill_(torch.nan)
    with pytest.raises(NumericalError, match=r"the gradient at 0\.neuron is not finite"):
        attribution(subject, pairs, reference)


def test_an_unknown_objective_is_refused() -> None:
    subject = tiny("llama")
    pairs, reference = _setting(subject, [Site(0, Kind.NEURON)])
    with pytest.raises(UnknownName, match="no objective 'KL'"):
        attribution(subject, pairs, reference, objective="KL")  # type: ignore[arg-type]
