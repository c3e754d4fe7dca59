"""What causal tracing is compared with: the paper's formulas by hand, the greedy oracle, and their limits."""

import logging

import pytest
import torch
from torch import Tensor

from subcircuit import metrics
from subcircuit.errors import UnknownName, UsageError
from subcircuit.methods.causal_tracing import CausalTracing
from subcircuit.sites import Kind, Site
from tiny_tracing import FEW, chosen, discovery, mask_of, names_of, random_study, tracing

# -- the paper's form -------------------------------------------------------------------------------------------------


def test_the_paper_preset_follows_its_formulas_on_two_components() -> None:
    """Two MLPs: `mean 1/(1 + ell) + lambda (e + 1) (|m|_1 + m'(1 - m))`, Adam, clamp; gradients by differences."""
    subject, task = random_study("llama")
    method = CausalTracing.paper(kinds="mlp", k=1, steps=4, lr=0.03, pairs=8, validation=4)
    assert (method.penalty, method.batch, method.polish) == (0.05, 32, 0)
    study = tracing(method, subject, task)

    def loss(m: Tensor, epoch: int) -> float:
        layers = {Site(layer, Kind.MLP): 1 - m[[layer]].float() for layer in range(2)}
        logits = study.replacing.logits(layers)
        pairs = study.pairs
        change = study.replacing.base - metrics.logit_difference(logits, pairs.right, pairs.wrong)
        ell = change.exp() - 1
        penalty = 0.05 * (epoch + 1) * float(m.sum() + (m * (1 - m)).sum())
        return float((1 / (1 + ell)).mean()) + penalty

    m, first, second = torch.full((2,), 0.5, dtype=torch.float64), torch.zeros(2), torch.zeros(2)
    for epoch in range(4):
        step = 1e-2
        units = torch.eye(2, dtype=torch.float64) * step
        slope = torch.tensor([(loss(m + unit, epoch) - loss(m - unit, epoch)) / (2 * step) for unit in units])
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        rate = (first / (1 - 0.9 ** (epoch + 1))) / ((second / (1 - 0.999 ** (epoch + 1))).sqrt() + 1e-8)
        m = (m - 0.03 * rate).clamp(0, 1)
        assert (m >= 0.5).all()  # neither is let go, so that no epoch's set is small enough
    scores = method.find(subject, task).scores
    found = torch.cat([scores[Site(layer, Kind.MLP)] for layer in range(2)])
    torch.testing.assert_close(found, m.float(), rtol=0, atol=2e-3)
    assert (found > 0.53).all()


def test_the_papers_penalties_miss_a_budget_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    subject, task = random_study("gpt2")
    method = CausalTracing.paper(k=3, penalty=10.0, lr=0.5, **FEW)
    with caplog.at_level(logging.WARNING, "subcircuit"):
        circuit = method.find(subject, task)
    assert len(chosen(circuit)) == 0
    assert "0 components are chosen, not 3" in caplog.text


def test_the_preset_has_its_own_values_for_fine_kinds_and_takes_changes() -> None:
    assert (CausalTracing.paper().lr, CausalTracing.paper().steps) == (0.1, 15)
    fine = CausalTracing.paper(kinds="mlp_out", penalty=0.01)
    assert (fine.lr, fine.steps, fine.penalty) == (0.5, 30, 0.01)
    with pytest.raises(UnknownName, match="no setting 'lamda'"):
        CausalTracing.paper(lamda=1)


# -- searches to compare with -----------------------------------------------------------------------------------------


def test_greedy_adds_what_helps_most_each_time() -> None:
    subject, task = random_study("gpt2")
    method = CausalTracing(search="greedy", k=3, **FEW)
    study = tracing(method, subject, task)
    by_hand: list[int] = []
    for _ in range(3):
        others = [each for each in range(10) if each not in by_hand]
        values = [study.value(mask_of([*by_hand, each])) for each in others]
        by_hand.append(others[int(torch.tensor(values).argmax())])
    circuit = method.find(subject, task)
    assert chosen(circuit) == names_of(study.components, mask_of(by_hand))
    assert discovery(circuit) == pytest.approx(study.value(mask_of(by_hand)))


def test_too_many_passes_are_refused_with_their_number() -> None:
    subject, task = random_study()
    with pytest.raises(UsageError, match=r"a greedy walk to 3 of 10 components makes 216 passes .* the limit is 100"):
        CausalTracing(search="greedy", k=3, limit=100, **FEW).find(subject, task)
