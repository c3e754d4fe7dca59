"""Node pruning at its limits: little memory, sizes out of reach, settings as people write them."""

from dataclasses import replace

import pytest
import torch

from subcircuit.methods.node_pruning import NodePruning
from subcircuit.records import missed
from subcircuit.sites import Kind
from subcircuit.subject import Prompts, Subject
from tiny_task import planted_study

QUICK = NodePruning(kl=0.3, pairs=16, validation=8, batch=8, steps=4, polish=0)


def test_weights_are_read_as_people_write_them() -> None:
    assert NodePruning(weights="head=1e-3, neuron = 5").plan().penalties == {Kind.HEAD: 1e-3, Kind.NEURON: 5.0}
    assert NodePruning.paper(kinds="head,neuron").plan().penalties == {Kind.HEAD: 1.0, Kind.NEURON: 1.0}


def test_a_size_out_of_reach_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Heads alone cannot bring the cost down to a twentieth: the neurons, which have no gates, cost more."""
    result = replace(QUICK, size=0.05, kinds="head").find(*planted_study()).origin.result
    assert result["cost"] > result["size"] == 0.05
    assert missed(result)
    assert "budget is not met" in caplog.text


def test_key_value_groups_can_be_closed_to_a_size() -> None:
    """Their price is their own when they have gates: with all of them closed only k and v are saved."""
    circuit = replace(QUICK, size=0.9, kinds="kv").find(*planted_study())
    assert not missed(circuit.origin.result)
    assert 0 < circuit.sizes[Kind.KV].kept < circuit.sizes[Kind.KV].total


def test_a_step_that_runs_out_of_memory_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = QUICK.find(*planted_study())
    plain, seen = Subject.logits, []

    def small(self: Subject, prompts: Prompts) -> torch.Tensor:
        if torch.is_grad_enabled() and len(prompts) > 3:
            raise torch.OutOfMemoryError("no room")
        seen.append(len(prompts))
        return plain(self, prompts)

    monkeypatch.setattr(Subject, "logits", small)
    parts = QUICK.find(*planted_study())
    assert 2 in seen
    for site, scores in whole.scores.items():  # Adam turns rounding into small steps where a slope is nearly 0
        assert torch.allclose(scores, parts.scores[site], atol=0.1)
