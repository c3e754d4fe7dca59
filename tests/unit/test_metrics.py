"""Metrics against numbers worked out by hand."""

import math

import pytest
import torch

from subcircuit import metrics

# odds of four tokens: probabilities are these over their sum
ODDS = torch.tensor([[1.0, 2.0, 4.0, 1.0], [8.0, 4.0, 2.0, 2.0]])
LOGITS = ODDS.log() + torch.tensor([[0.3], [-7.0]])  # a constant changes no probability


def test_logit_difference_of_one_answer_each() -> None:
    found = metrics.logit_difference(LOGITS, torch.tensor([[2], [1]]), torch.tensor([[0], [0]]))
    assert found.tolist() == pytest.approx([math.log(4), -math.log(2)], abs=1e-6)


def test_several_answers_count_as_one_set_and_filling_counts_for_nothing() -> None:
    found = metrics.logit_difference(LOGITS, torch.tensor([[1, 2], [0, -1]]), torch.tensor([[0, 3], [1, -1]]))
    assert found.tolist() == pytest.approx([math.log(6 / 2), math.log(8 / 4)], abs=1e-6)


def test_probability_is_that_of_the_set() -> None:
    found = metrics.probability(LOGITS, torch.tensor([[1, 2], [3, -1]]))
    assert found.tolist() == pytest.approx([6 / 8, 2 / 16])


def test_accuracy_is_whether_right_beats_wrong_not_whether_it_is_first() -> None:
    right, wrong = torch.tensor([[1], [2]]), torch.tensor([[0], [1]])
    assert metrics.accuracy(LOGITS, right, wrong).tolist() == [1.0, 0.0]


def test_a_tie_is_not_accurate() -> None:
    assert metrics.accuracy(LOGITS[:1], torch.tensor([[0]]), torch.tensor([[3]])).tolist() == [0.0]


def test_exact_match_is_of_the_top_token() -> None:
    other = torch.tensor([[0.0, 0.0, 9.0, 0.0], [0.0, 0.1, 0.0, 0.0]])
    assert metrics.exact_match(other, LOGITS).tolist() == [1.0, 0.0]


def test_kl_is_from_full_to_circuit_in_nats() -> None:
    full, circuit = torch.tensor([[1.0, 3.0]]).log(), torch.tensor([[1.0, 1.0]]).log()
    forward = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert metrics.kl(full, circuit).item() == pytest.approx(forward, abs=1e-6)
    backward = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert metrics.kl(circuit, full).item() == pytest.approx(backward, abs=1e-6)
    assert forward != pytest.approx(backward, abs=1e-3)


def test_kl_of_the_same_distribution_is_nothing() -> None:
    assert metrics.kl(LOGITS, LOGITS + 5).tolist() == pytest.approx([0, 0], abs=1e-6)


def test_gradients_pass_where_rows_are_filled() -> None:
    logits = LOGITS.clone().requires_grad_()
    metrics.logit_difference(logits, torch.tensor([[2, -1], [0, 1]]), torch.tensor([[0, 1], [3, -1]])).sum().backward()
    assert logits.grad is not None and bool(logits.grad.isfinite().all())
    assert logits.grad[0, 3] == 0
