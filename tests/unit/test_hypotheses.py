"""Hypothesis tests on data drawn with and without what they test for: how often they reject, and what."""

import pytest
import torch
from torch import Tensor

from subcircuit.evaluation.hypotheses import equivalence, independence, redundancy, tail
from subcircuit.evaluation.panel import Panel
from subcircuit.evaluation.setting import Setting
from tiny_circuit import planted_circuit
from tiny_task import planted_study

SETTING = Setting(granularity="node", component="head", ablation="corrupt", set="outside the circuit")
ALPHA = 0.05


def test_a_binomial_tail_by_hand() -> None:
    assert tail(4, 0.5, lambda k: k >= 3) == pytest.approx(5 / 16)
    assert tail(2, 0.9, lambda k: k == 0) == pytest.approx(0.01)
    assert tail(5000, 0.6, lambda k: True) == pytest.approx(1)  # no overflow


# -- equivalence ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_equivalence_at_the_edge_of_its_hypothesis_is_rejected_about_as_often_as_allowed(epsilon: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rejected = []
    for _ in range(400):
        better = torch.rand(200, generator=generator) < 0.5 + epsilon
        rejected.append(_equal(better.float() * 2 - 1, epsilon))
    assert 0.01 <= sum(rejected) / 400 <= ALPHA + 0.03


def test_equivalence_within_its_margin_is_kept_and_far_outside_rejected() -> None:
    even = torch.tensor([1.0, -1.0]).repeat(50)
    assert not _equal(even)
    assert _equal(-torch.ones(40)) and _equal(torch.ones(40))  # worse or better: neither is the same


def test_ties_count_half_for_either_side() -> None:
    """Rounding has a sign as well, which says nothing."""
    full = torch.linspace(1, 5, 100)
    same = equivalence(full - 1e-7, full, SETTING)
    assert (same.statistic, same.p, same.rejected) == (0.5, pytest.approx(1), False)
    few = torch.zeros(100)
    few[:10] = -1.0
    assert equivalence(full + few, full, SETTING).statistic == 0.45


def test_a_planted_circuit_is_equivalent_and_the_empty_one_is_not() -> None:
    subject, task = planted_study()
    panel = Panel.draw(subject, planted_circuit(subject), task, n=40)
    full = panel.whole["logit_difference"]
    assert not equivalence(panel.chosen["logit_difference"], full, SETTING).rejected
    assert equivalence(panel.empty["logit_difference"], full, SETTING).rejected


# -- independence ---------------------------------------------------------------------------------------------------


def test_independent_scores_are_rejected_about_as_often_as_allowed() -> None:
    generator = torch.Generator().manual_seed(0)
    rejected = 0
    for seed in range(200):
        x, y = torch.randn(2, 30, generator=generator)
        rejected += independence(x, y, SETTING, permutations=99, seed=seed).rejected
    assert 0.01 <= rejected / 200 <= ALPHA + 0.05


def test_dependence_without_correlation_is_found() -> None:
    x = torch.linspace(-1, 1, 60)
    found = independence(x.square(), x, SETTING, permutations=199)
    assert found.rejected and found.p == pytest.approx(1 / 200)


def test_the_statistic_is_hsic_as_a_trace() -> None:
    x, y = torch.tensor([0.0, 1.0, 3.0, 7.0]).double(), torch.tensor([2.0, 2.5, -1.0, 4.0]).double()
    h = torch.eye(4, dtype=torch.float64) - 0.25

    def kernel(values: Tensor) -> Tensor:
        apart = (values[:, None] - values).abs()
        return torch.exp(-(apart**2) / (2 * apart[apart > 0].median() ** 2))

    by_hand = torch.trace(kernel(x) @ h @ kernel(y) @ h) / 9
    assert independence(x, y, SETTING, permutations=1).statistic == pytest.approx(float(by_hand))


def test_a_constant_is_independent_of_everything() -> None:
    assert independence(torch.ones(20), torch.randn(20), SETTING, permutations=50).p == 1


# -- minimality -----------------------------------------------------------------------------------------------------


def test_a_node_at_the_quantile_is_called_redundant_about_as_often_as_allowed() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = (torch.rand(100, generator=generator) for _ in range(400))
    rejected = sum(redundancy({"0.head.0": 0.9}, inflated, SETTING).rejected for inflated in draws)
    assert 0.005 <= rejected / 400 <= ALPHA + 0.02


def test_a_node_that_does_nothing_is_redundant_and_one_that_does_much_is_not() -> None:
    inflated = torch.rand(50, generator=torch.Generator().manual_seed(0))
    found = redundancy({"0.head.0": 0.0, "0.head.1": 2.0}, inflated, SETTING)
    assert found.redundant == ["0.head.0"]
    assert found.p["0.head.1"] == pytest.approx(1)


def test_the_level_is_shared_out_over_the_nodes() -> None:
    inflated = torch.linspace(0, 1, 20)
    change = float(inflated[15])  # larger than 15 of 20: p = .043
    assert redundancy({"a": change}, inflated, SETTING).redundant == ["a"]
    assert redundancy({"a": change, "b": 2.0}, inflated, SETTING).redundant == []


def test_with_nothing_outside_the_circuit_nothing_is_called_redundant() -> None:
    assert not redundancy({"a": 0.0}, torch.zeros(0), SETTING).rejected


def _equal(difference: Tensor, epsilon: float = 0.1) -> bool:
    """Whether equivalence is rejected for circuit scores that differ from the model's by this."""
    full = torch.ones(len(difference))
    return equivalence(full + difference, full, SETTING, epsilon=epsilon, alpha=ALPHA).rejected
