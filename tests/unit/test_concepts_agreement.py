"""Agreement of judges, against examples worked by hand."""

import itertools

import pytest
import torch

from subcircuit.concepts.agreement import chance_w, kendall_w, krippendorff_alpha, ranks


def test_alpha_of_an_example_worked_by_hand() -> None:
    """Two judges, three items: (1, 1), (2, 3), (3, 3).

    Observed: ordered pairs within items differ by 0, 2 * 1, 0; each over 2 - 1, over 6 values: 2 / 6 = 1/3.
    Expected: values 1, 1, 2, 3, 3, 3; ordered squared differences 2 * (2*1*1 + 2*3*4 + 1*3*1) = 58; over 30: 29/15.
    """
    found = krippendorff_alpha(torch.tensor([[1.0, 2.0, 3.0], [1.0, 3.0, 3.0]]))
    assert found == pytest.approx(1 - (1 / 3) / (58 / 30))


def test_alpha_leaves_out_what_is_not_rated() -> None:
    nan = torch.nan
    whole = torch.tensor([[1.0, 2.0, 3.0], [1.0, 3.0, 3.0]])
    more = torch.tensor([[1.0, 2.0, 3.0, nan, nan], [1.0, 3.0, 3.0, 2.0, nan], [nan] * 5])
    assert krippendorff_alpha(more) == pytest.approx(krippendorff_alpha(whole))
    assert krippendorff_alpha(torch.tensor([[1.0, 2.0], [1.0, 2.0]])) == pytest.approx(1.0)
    assert krippendorff_alpha(torch.tensor([[2.0, 2.0], [2.0, 2.0]])) is None
    assert krippendorff_alpha(torch.tensor([[1.0, nan], [nan, 2.0]])) is None


def test_ties_share_their_ranks() -> None:
    assert ranks(torch.tensor([[3.0, 1.0, 3.0, 2.0]])).tolist() == [[3.5, 1.0, 3.5, 2.0]]


def test_w_of_examples_worked_by_hand() -> None:
    """Ranks 1 2 3, 1 2 3, 2 1 3: sums 4, 5, 9, mean 6, S = 4 + 1 + 9 = 14; 12 * 14 / (9 * 24) = 7/9.

    With ties: ranks 1 2.5 2.5 and 1 2 3: sums 2, 4.5, 5.5, mean 4, S = 4 + 0.25 + 2.25 = 6.5; T = 6;
    12 * 6.5 / (4 * 24 - 2 * 6) = 78 / 84.
    """
    assert kendall_w(torch.tensor([[1.0, 2, 3], [1, 2, 3], [2, 1, 3]])) == pytest.approx(7 / 9)
    assert kendall_w(torch.tensor([[1.0, 5, 5], [1, 2, 3]])) == pytest.approx(78 / 84)
    assert kendall_w(torch.tensor([[1.0, 2, 2], [4, 5, 5]])) == pytest.approx(1.0)
    assert kendall_w(torch.ones(2, 3)) is None and chance_w(torch.ones(2, 3)) is None


def test_the_chance_value_is_the_mean_over_all_orders() -> None:
    values = torch.tensor([[1.0, 2, 2], [1, 2, 3]])
    orders = [torch.tensor(order) for order in itertools.permutations(range(3))]
    every = [kendall_w(torch.stack([values[0][a], values[1][b]])) for a in orders for b in orders]
    mean = sum(each for each in every if each is not None) / len(every)
    assert chance_w(values) == pytest.approx(mean, abs=0.02)
    assert chance_w(torch.arange(4.0).expand(3, 4)) == pytest.approx(1 / 3, abs=0.02)
