"""Greedy removal against brute force over all circuits of a small model, and against the same walk by hand."""

from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from subcircuit.circuit import Circuit
from subcircuit.errors import Interrupted
from subcircuit.methods.attribution_patching import AttributionPatching
from subcircuit.methods.greedy_removal import GreedyRemoval
from subcircuit.sites import Kind, Node, Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs
from tiny import HEADS, planted, random_pairs, tiny
from tiny_task import RandomTask, planted_study

DEPTH = ["1.mlp", *(f"1.head.{unit}" for unit in range(4)), "0.mlp", *(f"0.head.{unit}" for unit in range(4))]


@pytest.fixture(scope="module")
def study() -> tuple[Subject, RandomTask]:
    subject = Subject(tiny("llama").model, planted_study()[0].tokenizer, name="tiny-llama")
    subject.model.get_output_embeddings().weight.data.mul_(0.5)
    return subject, RandomTask(subject)


def test_in_a_planted_model_it_is_the_smallest_circuit_of_all() -> None:
    """All 1,024 circuits of 8 heads and 2 MLPs, run by hand, of which the smallest that changes nothing is unique."""
    subject = Subject(planted("llama", neurons=[(0, 3)]).model, planted_study()[0].tokenizer)
    pairs = random_pairs(subject, 3, 6)
    kls = {closed: _kl(subject, pairs, closed) for closed in _subsets()}
    harmless = [closed for closed, kl in kls.items() if kl < 1e-4]
    largest = max(harmless, key=len)
    assert [len(closed) for closed in harmless].count(len(largest)) == 1
    circuit = GreedyRemoval(threshold=1e-4, validation=4).find(subject, RandomTask(subject), pairs)
    assert (
        _closed(circuit) == set(largest) == set(DEPTH) - {"0.mlp", *(f"{layer}.head.{unit}" for layer, unit in HEADS)}
    )


def test_the_walk_is_the_one_made_by_hand(study: tuple[Subject, RandomTask]) -> None:
    subject, task = study
    pairs = random_pairs(subject, 6, 7)
    closed, kl, rises = set[str](), 0.0, {}
    for name in DEPTH:
        after = _kl(subject, pairs, closed | {name})
        rises[name] = after - kl
        if rises[name] < 0.05:
            closed, kl = closed | {name}, after
    assert 0 < len(closed) < len(DEPTH)
    assert all(abs(rise - 0.05) > 1e-3 for rise in rises.values())  # no close calls
    circuit = GreedyRemoval(threshold=0.05, validation=4).find(subject, task, pairs)
    assert _closed(circuit) == closed
    assert circuit.origin.result["passes"] == len(DEPTH) * 6
    for name, rise in rises.items():
        layer, kind, unit = (*name.split("."), "0")[:3]
        assert float(circuit.scores[Site(int(layer), Kind(kind))][int(unit)]) == pytest.approx(rise, abs=1e-5)


def test_the_least_attributed_may_go_first(study: tuple[Subject, RandomTask]) -> None:
    """At a threshold that lets everything go, the KL told after each step is that of closing so many of that order."""
    subject, task = study
    pairs, told = random_pairs(subject, 6, 7), list[float]()
    ranking = AttributionPatching(objective="kl", steps=5, kinds="head,mlp", size=1.0, validation=4)
    scores = ranking.find(subject, task, pairs).scores
    value = {name: abs(float(scores[node.site][node.unit])) for name in DEPTH for node in [Node.parse(name)]}
    method = GreedyRemoval(threshold=100.0, order="attribution", validation=4)
    method.find(subject, task, pairs, progress=lambda phase, done, total, **facts: told.append(facts["kl"]))
    order = sorted(DEPTH, key=lambda name: value[name])
    assert order != DEPTH
    assert told == pytest.approx([_kl(subject, pairs, order[: step + 1]) for step in range(len(order))], abs=1e-5)


def test_what_lies_in_a_removed_branch_is_not_tried(study: tuple[Subject, RandomTask]) -> None:
    """Everything may go at this threshold: 2 MLPs and 2 attention branches are tried, no head and no neuron."""
    circuit = GreedyRemoval(threshold=100.0, kinds="attn,mlp,head,neuron", pairs=6, validation=4).find(*study)
    assert circuit.origin.result["passes"] == 4 * 6
    assert all(size.kept == 0 for size in circuit.sizes.values())
    assert all(not circuit.scores[Site(layer, kind)].any() for layer in (0, 1) for kind in (Kind.HEAD, Kind.NEURON))


@pytest.mark.parametrize("kinds", ["q,k,v", "kv,neuron", "block,attn,mlp,head,channel"])
def test_other_granularities_can_be_walked(study: tuple[Subject, RandomTask], kinds: str) -> None:
    loose, strict = (
        GreedyRemoval(threshold=threshold, kinds=kinds, pairs=4, validation=4).find(*study) for threshold in (0.1, 1e-9)
    )
    assert set(loose.sizes) == {Kind(kind) for kind in kinds.split(",")}
    assert sum(size.kept for size in loose.sizes.values()) < sum(size.kept for size in strict.sizes.values())


def test_a_resumed_walk_goes_on_where_it_stopped(study: tuple[Subject, RandomTask], tmp_path: Path) -> None:
    method = GreedyRemoval(threshold=0.05, pairs=6, validation=4)
    steps: list[int] = []

    def stop_at_six(phase: str, done: int, total: int, **facts: float) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        method.find(*study, folder=tmp_path, progress=stop_at_six)
    resumed = method.find(*study, folder=tmp_path, progress=lambda phase, done, total, **facts: steps.append(done))
    whole = method.find(*study)
    assert steps == [7, 8, 9, 10]
    assert _closed(resumed) == _closed(whole)
    assert resumed.origin.result == whole.origin.result
    assert _closed(replace(method, threshold=1e-9).find(*study)) == set()


# -- the words of these tests ----------------------------------------------------------------------------------------


def _subsets() -> list[frozenset[str]]:
    lots = product([False, True], repeat=len(DEPTH))
    return [frozenset(name for name, off in zip(DEPTH, lot, strict=True) if off) for lot in lots]


def _closed(circuit: Circuit) -> set[str]:
    kept = {str(node) for kind in circuit.sizes for node in circuit.nodes(kind)}
    return set(DEPTH) - kept


@torch.no_grad()
def _kl(subject: Subject, pairs: Pairs, closed: Collection[str]) -> float:
    """KL at the last token with these heads and MLPs taken from the corrupted run, by raw hooks."""
    full = subject.model(pairs.clean.ids).logits[:, -1].log_softmax(-1)
    donors = _donors(subject, pairs)
    with ExitStack() as stack:
        for name in closed:
            layer, kind, unit = (*name.split("."), "0")[:3]
            value = donors[int(layer), kind]
            module = subject.model.get_submodule(_path(layer, kind))
            handle: Any
            if kind == "mlp":
                handle = module.register_forward_hook(lambda _, args, out, value=value: value)
            else:
                span = slice(8 * int(unit), 8 * int(unit) + 8)
                handle = module.register_forward_pre_hook(
                    lambda _, args, value=value, span=span: (_overwritten(args[0], value, span),)
                )
            stack.callback(handle.remove)
        circuit = subject.model(pairs.clean.ids).logits[:, -1].log_softmax(-1)
    return float((full.exp() * (full - circuit)).sum(-1).mean())


def _donors(subject: Subject, pairs: Pairs) -> dict[tuple[int, str], Tensor]:
    seen: dict[tuple[int, str], Tensor] = {}
    with ExitStack() as stack:
        for layer, kind in product((0, 1), ("head", "mlp")):
            module = subject.model.get_submodule(_path(str(layer), kind))
            handle = module.register_forward_hook(
                lambda _, args, out, at=(layer, kind): seen.__setitem__(at, out if at[1] == "mlp" else args[0])
            )
            stack.callback(handle.remove)
        subject.model(pairs.corrupt.ids)
    return seen


def _path(layer: str, kind: str) -> str:
    return f"model.layers.{layer}." + ("mlp" if kind == "mlp" else "self_attn.o_proj")


def _overwritten(act: Tensor, value: Tensor, span: slice) -> Tensor:
    act = act.clone()
    act[..., span] = value[..., span]
    return act
