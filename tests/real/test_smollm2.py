"""The road from end to end on a real language model. Slow: it loads 135M parameters and searches for a minute."""

from pathlib import Path

import pytest
import torch

from subcircuit import Circuit, Kind, NodePruning, Subject, evidence, load, task

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def subject() -> Subject:
    return load("smollm2-135m")


def test_idle_edits_change_nothing(subject: Subject) -> None:
    prompts = task("ioi").pairs(subject.tokenizer, 4, split="test").clean
    with torch.no_grad():
        plain = subject.model(input_ids=prompts.ids, attention_mask=prompts.mask.long()).logits
        kinds = [kind for kind in Kind if kind in subject.family.taps]
        with subject.editing({site: lambda act: act for site in subject.sites(*kinds)}):
            edited = subject.all_logits(prompts)
    assert (edited - plain)[prompts.mask].abs().max() == 0


@pytest.mark.parametrize(("name", "least"), [("ioi", 0.9), ("greater-than", 0.9), ("docstring", 0.8)])
def test_the_model_does_the_task(subject: Subject, name: str, least: float) -> None:
    pairs = task(name).pairs(subject.tokenizer, 32, split="test")
    with torch.no_grad():
        logits = subject.logits(pairs.clean)
    right, wrong = (logits.gather(1, ids.clamp(min=0)) for ids in (pairs.right, pairs.wrong))
    right, wrong = (
        value.masked_fill(ids < 0, -torch.inf).amax(1) for value, ids in ((right, pairs.right), (wrong, pairs.wrong))
    )
    assert (right > wrong).float().mean() >= least


def test_a_short_search_finds_a_circuit_that_beats_its_controls(subject: Subject, tmp_path: Path) -> None:
    method = NodePruning(kl=0.5, steps=40, pairs=64, validation=32, warm_start=2, polish=4)
    circuit = method.find(subject, task("ioi"))
    assert circuit.origin.result["kl"] <= 0.5
    assert circuit.sizes[Kind.HEAD].fraction < 0.3
    assert circuit.sizes[Kind.NEURON].fraction < 0.3
    found = evidence(subject, circuit, task("ioi"), n=32, controls=5)
    assert found.verdict == "evidence"
    circuit.save(tmp_path)
    assert Circuit.load(tmp_path).nodes(Kind.NEURON) == circuit.nodes(Kind.NEURON)
