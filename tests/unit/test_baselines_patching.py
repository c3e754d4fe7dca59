"""Activation patching against hooks written by hand: every granularity, both directions, every position."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from subcircuit.errors import DataError, Interrupted, NumericalError, UsageError
from subcircuit.methods.activation_patching import ActivationPatching
from subcircuit.methods.attribution_patching import AttributionPatching
from subcircuit.methods.greedy_removal import GreedyRemoval
from subcircuit.methods.random import Random
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs
from tiny import random_pairs, shortened, tiny
from tiny_task import RandomTask, planted_study

PATCH = ActivationPatching(size=0.5, pairs=6, validation=4)
LAYER = "model.layers.1"
# where a unit passes in the tiny llama: module, its input or output, the unit's channels
PLACES: dict[str, list[tuple[str, str, Callable[[int], slice]]]] = {
    "head": [("self_attn.o_proj", "in", lambda unit: slice(8 * unit, 8 * unit + 8))],
    "channel": [("self_attn.o_proj", "in", lambda unit: slice(unit, unit + 1))],
    "attn": [("self_attn.o_proj", "in", lambda unit: slice(None))],
    "mlp": [("mlp", "out", lambda unit: slice(None))],
    "neuron": [("mlp.down_proj", "in", lambda unit: slice(unit, unit + 1))],
    "q": [("self_attn.q_proj", "out", lambda unit: slice(8 * unit, 8 * unit + 8))],
    "k": [("self_attn.k_proj", "out", lambda unit: slice(8 * unit, 8 * unit + 8))],
    "v": [("self_attn.v_proj", "out", lambda unit: slice(8 * unit, 8 * unit + 8))],
    "kv": [(f"self_attn.{name}_proj", "out", lambda unit: slice(8 * unit, 8 * unit + 8)) for name in "kv"],
}


@pytest.fixture(scope="module")
def study() -> tuple[Subject, RandomTask]:
    """A random model, in which everything matters a little."""
    subject = Subject(tiny("llama").model, planted_study()[0].tokenizer, name="tiny-llama")
    return subject, RandomTask(subject)


# -- activation patching is patching ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_an_effect_is_that_of_a_hook_written_by_hand(
    study: tuple[Subject, RandomTask], kind: str, direction: str
) -> None:
    subject, pairs = study[0], random_pairs(study[0], 6, 7)
    found = replace(PATCH, kinds=kind, direction=direction).find(*study, pairs).scores[Site(1, Kind(kind))]
    for unit in range(0, len(found), 1 if len(found) < 8 else 11):
        assert float(found[unit]) == pytest.approx(_by_hand(subject, pairs, kind, unit, direction), abs=2e-5)
    assert found.abs().max() > 1e-3


def test_both_directions_are_their_mean(study: tuple[Subject, RandomTask]) -> None:
    each = [replace(PATCH, direction=direction).find(*study).scores for direction in ("noise", "denoise", "both")]
    assert any((each[0][site] - each[1][site]).abs().max() > 0.01 for site in each[0])
    for site in each[0]:
        torch.testing.assert_close(each[2][site], (each[0][site] + each[1][site]) / 2)


@pytest.mark.parametrize("metric", ["kl", "probability"])
def test_the_other_metrics_are_worked_out_by_hand_too(study: tuple[Subject, RandomTask], metric: str) -> None:
    subject, pairs = study[0], random_pairs(study[0], 6, 7)
    rows = torch.arange(len(pairs))
    full = subject.model(pairs.clean.ids).logits[:, -1].softmax(-1)

    def judge(logits: Tensor) -> float:
        p = logits.softmax(-1)
        if metric == "kl":
            return -float((full * (full.log() - p.log())).sum(-1).mean())
        return float(p[rows, pairs.right[:, 0]].mean())

    found = replace(PATCH, metric=metric).find(*study, pairs).scores[Site(1, Kind.HEAD)]
    for unit in range(4):
        assert float(found[unit]) == pytest.approx(_by_hand(subject, pairs, "head", unit, "noise", judge), abs=2e-6)


def test_neither_batch_nor_cache_changes_an_effect(study: tuple[Subject, RandomTask]) -> None:
    first, *others = (
        replace(PATCH, kinds="head,neuron", **changes).find(*study).scores
        for changes in ({}, {"batch": 5}, {"cache_gb": 0.0})  # type: dict[str, Any]
    )
    for other in others:
        assert all((other[site] - score).abs().max() < 2e-5 for site, score in first.items())


def test_prompts_of_several_lengths_are_patched_at_their_own_positions(study: tuple[Subject, RandomTask]) -> None:
    """Padding changes nothing: the mean of what each prompt gives by itself."""
    pairs = random_pairs(study[0], 5, 8)
    pairs = Pairs(shortened(pairs.clean), shortened(pairs.corrupt), pairs.right, pairs.wrong)
    together = PATCH.find(*study, pairs).scores
    alone = [PATCH.find(*study, pairs[[row]]).scores for row in range(len(pairs))]
    for site, score in together.items():
        torch.testing.assert_close(score, torch.stack([each[site] for each in alone]).mean(0), rtol=0, atol=2e-5)


# -- positions -------------------------------------------------------------------------------------------------------


def test_an_effect_at_one_position_is_that_of_a_hook_there(study: tuple[Subject, RandomTask], tmp_path: Path) -> None:
    subject, pairs = study[0], random_pairs(study[0], 6, 7)
    replace(PATCH, kinds="head,k", positions=True).find(*study, pairs, folder=tmp_path)
    found = load_file(tmp_path / "positions.safetensors")
    assert {name: tuple(effects.shape) for name, effects in found.items()} == {
        "0.head": (4, 7), "1.head": (4, 7), "0.k": (2, 7), "1.k": (2, 7)
    }  # fmt: skip
    for kind, unit, place in (("head", 2, 6), ("k", 1, 0), ("k", 0, 5)):
        by_hand = _by_hand(subject, pairs, kind, unit, "noise", place=place)
        assert float(found[f"1.{kind}"][unit, place]) == pytest.approx(by_hand, abs=2e-5)
        assert abs(by_hand) > 1e-3


def test_in_the_last_layer_only_the_judged_position_of_a_head_counts(
    study: tuple[Subject, RandomTask], tmp_path: Path
) -> None:
    circuit = replace(PATCH, positions=True).find(*study, folder=tmp_path)
    found = load_file(tmp_path / "positions.safetensors")
    assert found["1.head"][:, :-1].abs().max() < 1e-5
    torch.testing.assert_close(found["1.head"][:, -1], circuit.scores[Site(1, Kind.HEAD)], rtol=0, atol=1e-5)
    assert found["0.head"][:, :-1].abs().max() > 1e-2


def test_positions_of_prompts_of_several_lengths_are_refused_by_row(
    study: tuple[Subject, RandomTask], tmp_path: Path
) -> None:
    pairs = random_pairs(study[0], 4, 8)
    pairs = Pairs(shortened(pairs.clean), shortened(pairs.corrupt), pairs.right, pairs.wrong)
    with pytest.raises(DataError, match="row 0 has 8 tokens, row 1 has 6") as refusal:
        replace(PATCH, positions=True).find(*study, pairs, folder=tmp_path)
    assert "one length" in refusal.value.cure


def test_positions_without_a_folder_are_refused(study: tuple[Subject, RandomTask]) -> None:
    with pytest.raises(UsageError, match=r"positions\.safetensors, and there is no folder"):
        replace(PATCH, positions=True).find(*study)


# -- what a search may take ------------------------------------------------------------------------------------------


def test_more_passes_than_the_limit_are_refused_with_their_number(
    study: tuple[Subject, RandomTask], tmp_path: Path
) -> None:
    """2 layers of 4 heads and an MLP; 6 pairs; two directions; the whole and each of 6 positions."""
    method = replace(PATCH, direction="both", positions=True, limit=839)
    with pytest.raises(UsageError, match="10 nodes, 6 pairs, two directions, and each of 6 positions make 840") as stop:
        method.find(*study, folder=tmp_path)
    assert "--limit 840" in stop.value.cure
    assert replace(method, limit=840).find(*study, folder=tmp_path).origin.result["passes"] == 840
    with pytest.raises(UsageError, match="10 nodes, 4 pairs make 40 passes"):
        GreedyRemoval(pairs=4, limit=39).find(*study)


def test_finished_sites_are_not_patched_again(study: tuple[Subject, RandomTask], tmp_path: Path) -> None:
    passes: list[int] = []
    handle = study[0].model.register_forward_pre_hook(lambda *call: passes.append(1))

    def stop_after_three(phase: str, done: int, total: int, **facts: float) -> None:
        if phase == "patching" and done == 60:  # 4 + 48 + 4 of 104 nodes, and one more site
            raise KeyboardInterrupt

    method = replace(PATCH, kinds="head,q,neuron", batch=8)
    whole = method.find(*study)
    needed = len(passes)
    passes.clear()
    with pytest.raises(Interrupted) as stop:
        method.find(*study, folder=tmp_path, progress=stop_after_three)
    assert "--resume" in stop.value.cure
    passes.clear()
    resumed = method.find(*study, folder=tmp_path)
    handle.remove()
    assert all(torch.equal(resumed.scores[site], score) for site, score in whole.scores.items())
    assert len(passes) < 0.7 * needed


def test_an_effect_that_is_no_number_is_refused_by_site() -> None:
    subject = Subject(tiny("llama", seed=3).model, planted_study()[0].tokenizer)
    pairs, task = random_pairs(subject, 4, 6), RandomTask(subject)
    subject.model.get_submodule("model.layers.1.mlp.down_proj").weight.data[0, 5] = torch.nan
    with pytest.raises(NumericalError, match=r"an effect at 0\.mlp is not finite"):
        PATCH.find(subject, task, pairs)
    with pytest.raises(NumericalError, match="the gradient at"):
        AttributionPatching(pairs=4).find(subject, task, pairs)
    with pytest.raises(NumericalError, match=r"an effect at 1\.mlp is not finite"):
        GreedyRemoval().find(subject, task, pairs)
    with pytest.raises(NumericalError, match="KL is nan"):
        Random().find(subject, task, pairs)


# -- the words of these tests ----------------------------------------------------------------------------------------


def _by_hand(
    subject: Subject,
    pairs: Pairs,
    kind: str,
    unit: int,
    direction: str,
    judge: Callable[[Tensor], float] | None = None,
    place: int | None = None,
) -> float:
    """What patching one unit of layer 1 changes, by raw hooks over raw tokens; positive = the unit helps."""
    rows, at = torch.arange(len(pairs)), slice(None) if place is None else slice(place, place + 1)

    def difference(logits: Tensor) -> float:
        return float((logits[rows, pairs.right[:, 0]] - logits[rows, pairs.wrong[:, 0]]).mean())

    judge = judge or difference
    run, donor = (pairs.clean.ids, pairs.corrupt.ids) if direction == "noise" else (pairs.corrupt.ids, pairs.clean.ids)
    handles = []
    for path, side, channels in PLACES[kind]:
        module = subject.model.get_submodule(f"{LAYER}.{path}")
        seen: list[Tensor] = []
        look = module.register_forward_hook(
            lambda _, args, out, side=side, seen=seen: seen.append(args[0] if side == "in" else out)
        )
        subject.model(donor)
        look.remove()

        def patched(act: Tensor, value: Tensor = seen[0], channels: Callable[[int], slice] = channels) -> Tensor:
            act = act.clone()
            act[:, at, channels(unit)] = value[:, at, channels(unit)]
            return act

        if side == "in":
            handles.append(module.register_forward_pre_hook(lambda _, args, patched=patched: (patched(args[0]),)))
        else:
            handles.append(module.register_forward_hook(lambda _, args, out, patched=patched: patched(out)))
    after = judge(subject.model(run).logits[:, -1])
    for handle in handles:
        handle.remove()
    before = judge(subject.model(run).logits[:, -1])
    return before - after if direction == "noise" else after - before
