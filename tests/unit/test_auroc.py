"""Rankings against the truth: counted by hand, and over every order in which ties could be broken."""

from itertools import pairwise, permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from subcircuit.errors import NumericalError
from subcircuit.ground_truth.ranking import Ranked, auroc, average_precision, pooled, ranked

ITEMS = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=2, max_size=6).filter(
    lambda items: len({true for _, true in items}) == 2
)


@pytest.mark.parametrize(
    ("scores", "truth", "area", "precision"),
    [
        ([4, 3, 2, 1], [1, 1, 0, 0], 1.0, 1.0),
        ([1, 2, 3, 4], [1, 1, 0, 0], 0.0, (1 / 3 + 2 / 4) / 2),
        ([9, 8, 7, 6], [1, 0, 1, 0], 3 / 4, (1 + 2 / 3) / 2),
        ([1, 1, 0], [1, 0, 0], 3 / 4, 1 / 2),
        ([5, 5, 5, 5, 5], [1, 0, 0, 1, 0], 1 / 2, 2 / 5),
        ([2, 1, 1, 0], [1, 1, 0, 0], (2 + 1.5) / 4, (1 + 2 / 3) / 2),
        ([-3, 0, 0], [1, 0, 0], 0.0, 1 / 3),
    ],
)
def test_counted_by_hand(scores: list[float], truth: list[int], area: float, precision: float) -> None:
    found = ranked(torch.tensor(scores, dtype=torch.float), torch.tensor(truth).bool())
    assert found.auroc == pytest.approx(area)
    assert found.auprc == pytest.approx(precision)
    assert (found.true, found.total) == (sum(truth), len(truth))


@settings(deadline=None, max_examples=60)
@given(ITEMS)
def test_auroc_is_its_mean_over_every_way_to_break_the_ties(items: list[tuple[int, bool]]) -> None:
    scores, truth = _tensors(items)
    areas = [
        sum(1.0 for i, a in enumerate(order) for b in order[i + 1 :] if a and not b)
        for order in _orders(items)  # best first: pairs with the true one ahead
    ]
    true = int(truth.sum())
    expected = sum(areas) / len(areas) / (true * (len(items) - true))
    assert auroc(scores, truth) == pytest.approx(expected)


@settings(deadline=None, max_examples=60)
@given(ITEMS)
def test_average_precision_takes_equal_scores_together(items: list[tuple[int, bool]]) -> None:
    scores, truth = _tensors(items)
    expected, recall = 0.0, 0.0
    for threshold in sorted({score for score, _ in items}, reverse=True):
        taken = [true for score, true in items if score >= threshold]
        now = sum(taken) / int(truth.sum())
        expected += (now - recall) * sum(taken) / len(taken)
        recall = now
    assert average_precision(scores, truth) == pytest.approx(expected)
    if len({score for score, _ in items}) == len(items):
        (order,) = _orders(items)
        hits = [place for place, true in enumerate(order, 1) if true]
        assert expected == pytest.approx(sum(n / place for n, place in enumerate(hits, 1)) / len(hits))


@settings(deadline=None, max_examples=30)
@given(ITEMS, st.randoms(use_true_random=False))
def test_where_ties_stand_does_not_matter(items: list[tuple[int, bool]], random: object) -> None:
    shuffled = list(items)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert ranked(*_tensors(items)) == ranked(*_tensors(shuffled))


def test_without_both_sorts_there_is_nothing_to_say() -> None:
    for truth in ([True, True], [False, False]):
        assert ranked(torch.ones(2), torch.tensor(truth)).auroc is None
        assert ranked(torch.ones(2), torch.tensor(truth)).auprc is None


def test_nan_has_no_rank() -> None:
    with pytest.raises(NumericalError, match="1 of 2 scores are NaN"):
        ranked(torch.tensor([1.0, torch.nan]), torch.tensor([True, False]))


def test_kinds_are_pooled_without_being_compared() -> None:
    """Heads 2 x 3 pairs at 0.5, MLPs 1 x 1 pair at 1; a kind of only true items weighs nothing."""
    kinds = {
        "head": Ranked(auroc=0.5, auprc=0.6, true=2, total=5),
        "mlp": Ranked(auroc=1.0, auprc=0.9, true=1, total=2),
        "neuron": Ranked(auroc=None, auprc=None, true=4, total=4),
    }
    found = pooled(kinds)
    assert found.auroc == pytest.approx((6 * 0.5 + 1 * 1.0) / 7)
    assert found.auprc == pytest.approx((2 * 0.6 + 1 * 0.9) / 3)
    assert (found.true, found.total) == (7, 11)
    assert pooled({"neuron": kinds["neuron"]}).auroc is None


def _tensors(items: list[tuple[int, bool]]) -> tuple[Tensor, Tensor]:
    return torch.tensor([float(score) for score, _ in items]), torch.tensor([true for _, true in items])


def _orders(items: list[tuple[int, bool]]) -> list[list[bool]]:
    """Truths from the best score down, for every order in which equal scores may stand."""
    orders = permutations(items)
    return [[true for _, true in order] for order in orders if all(a[0] >= b[0] for a, b in pairwise(order))]
