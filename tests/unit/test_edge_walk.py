"""Greedy removal of edges against the same walk on a model written out once more, and on known circuits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from expanded import EXPANDED
from subcircuit.circuit import Circuit
from subcircuit.edge_tables import Edges, connected
from subcircuit.errors import Interrupted, UnsupportedModel, UsageError
from subcircuit.ground_truth.cases import cases
from subcircuit.ground_truth.planted import planted_edges
from subcircuit.methods.greedy_removal import GreedyRemoval
from subcircuit.sites import Kind
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs
from subcircuit.wiring import LOGITS, Wiring
from tiny import random_pairs, tiny
from tiny_task import RandomTask, planted_study

METHOD = GreedyRemoval(edges=True, threshold=1e-5, pairs=4, validation=8)


@pytest.fixture(scope="module")
def study() -> tuple[Subject, RandomTask]:
    subject = Subject(tiny("llama").model, planted_study()[0].tokenizer, name="tiny-llama")
    subject.model.get_output_embeddings().weight.data.mul_(0.5)
    return subject, RandomTask(subject)


@pytest.mark.parametrize("threshold", [0.003, 0.03])
def test_it_is_the_walk_by_hand(study: tuple[Subject, RandomTask], threshold: float) -> None:
    """An edge that nothing depends on any more goes by hand too, for KL does not rise without it."""
    subject, task = study
    pairs = random_pairs(subject, 3, 6)
    edges = _edges(replace(METHOD, threshold=threshold).find(subject, task, pairs))
    closed, rises = _walked(subject, pairs, threshold)
    left = edges.wiring.allowed.clone()
    for name in closed:
        left[edges.wiring.parse(name)] = False
    assert torch.equal(edges.kept, connected(edges.wiring, left))
    assert 5 < edges.kept.sum() < 70
    tried = {name: rise for name, rise in rises.items() if edges.scores[edges.wiring.parse(name)]}
    assert len(tried) > 30
    for name, rise in tried.items():
        assert float(edges.scores[edges.wiring.parse(name)]) == pytest.approx(rise, abs=2e-5), name


@pytest.mark.parametrize("decoder", ["gpt2", "llama", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("order", ["depth", "attribution"])
def test_the_edges_of_planted_circuits_are_what_is_left(decoder: str, order: str) -> None:
    subject, task = planted_study(decoder)
    circuit = replace(METHOD, order=order).find(subject, task)
    edges = _edges(circuit)
    assert set(edges.names()) <= planted_edges(subject)
    assert len(edges.names()) > 0.6 * len(planted_edges(subject))
    assert [str(node) for node in circuit.nodes(Kind.HEAD)] == ["0.head.1", "1.head.2"]
    assert circuit.origin.result["kl"] < 1e-2


@pytest.mark.parametrize("program", ["detect-pattern", "frac-prevs", "reverse", "sort"])
def test_of_compiled_programs_exactly_the_edges_that_carry_tokens_are_left(program: str) -> None:
    (case,) = cases([f"compiled-{program}"])
    pairs = case.task.pairs(case.subject.tokenizer, 64, split="train")
    edges = _edges(METHOD.find(case.subject, case.task, pairs))
    assert set(edges.names()) == {name for name, carries in case.edges.items() if carries == "token"}


def test_an_interrupted_walk_goes_on_with_the_next_edge(study: tuple[Subject, RandomTask], tmp_path: Path) -> None:
    method = replace(METHOD, threshold=0.01)
    steps: list[int] = []

    def stop_at_thirty(phase: str, done: int, total: int, **facts: float) -> None:
        if done == 30:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="what it has computed is kept"):
        method.find(*study, folder=tmp_path, progress=stop_at_thirty)
    resumed = method.find(*study, folder=tmp_path, progress=lambda phase, done, total, **facts: steps.append(done))
    whole = method.find(*study)
    edges = int(Wiring.of(study[0].layout).allowed.sum())
    assert 0 < steps[0] - 30 <= 1 and steps == list(range(steps[0], edges + 1))
    assert torch.equal(_edges(resumed).kept, _edges(whole).kept)
    assert torch.equal(_edges(resumed).scores, _edges(whole).scores)
    assert resumed.origin.result == whole.origin.result
    assert whole.origin.result["passes"] <= 4 * edges


def test_a_walk_that_would_take_too_long_is_refused_before_it_starts(study: tuple[Subject, RandomTask]) -> None:
    edges = int(Wiring.of(study[0].layout).allowed.sum())
    with pytest.raises(UsageError, match=f"{edges} edges, 4 pairs make {4 * edges} passes .* the limit is 100"):
        replace(METHOD, limit=100).find(*study)


def test_what_has_no_edges_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="this bert model is an encoder"):
        METHOD.find(*planted_study("bert"))
    with pytest.raises(UsageError, match="edges join heads and MLPs, not neuron"):
        replace(METHOD, kinds="neuron")


# -- the words of these tests ------------------------------------------------------------------------------------------


def _walked(subject: Subject, pairs: Pairs, threshold: float) -> tuple[list[str], dict[str, float]]:
    """What ACDC removes and by how much KL rose at every edge: last reader first, and of its writers the last first."""
    model = EXPANDED["llama"](subject.model)
    (full, own), (_, corrupt) = model.run(pairs.clean.ids), model.run(pairs.corrupt.ids)
    wiring = Wiring.of(subject.layout)
    parts = ["q.0", "q.1", "q.2", "q.3", "k.0", "k.1", "v.0", "v.1", "mlp"]
    readers = [f"{layer}.{part}" for layer in (0, 1) for part in parts]
    closed: list[str] = []
    rises: dict[str, float] = {}
    kl = 0.0
    for reader in [LOGITS, *reversed(readers)]:
        for writer in reversed(own):
            name = f"{writer}->{reader}"
            if not wiring.allowed[wiring.readers.index(reader), wiring.writers.index(writer)]:
                continue
            after = _kl(full, model.run(pairs.clean.ids, [*closed, name], corrupt)[0])
            rises[name] = after - kl
            if after - kl < threshold:
                closed.append(name)
                kl = after
    return closed, rises


def _kl(full: torch.Tensor, logits: torch.Tensor) -> float:
    first, second = full.log_softmax(-1), logits.log_softmax(-1)
    return float((first.exp() * (first - second)).sum(-1).mean())


def _edges(circuit: Circuit) -> Edges:
    assert circuit.edges is not None
    return circuit.edges
