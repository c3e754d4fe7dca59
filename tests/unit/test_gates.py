"""Relaxed gates against the published formula, and the dual variable against what a price should do."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from subcircuit.errors import UnknownName
from subcircuit.gates import Dual, HardConcrete, Relaxation

RELAXATIONS: tuple[Relaxation, ...] = ("median", "straight-through", "sampled")
GRID = torch.linspace(-6, 6, 49)


def _draws(log_alpha: float, n: int = 40_000) -> torch.Tensor:
    return HardConcrete("sampled")(torch.full((n,), log_alpha), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_gates_lie_between_closed_and_open(relaxation: Relaxation) -> None:
    gates = HardConcrete(relaxation)(GRID, torch.Generator().manual_seed(0))
    assert gates.min() >= 0 and gates.max() <= 1
    assert gates[0] == 0 and gates[-1] == 1  # at the clamp, exactly


@pytest.mark.parametrize("log_alpha", [-3.0, -1.0, 0.0, 1.5])
def test_p_open_is_the_share_of_samples_that_are_not_zero(log_alpha: float) -> None:
    share = float((_draws(log_alpha) > 0).float().mean())
    assert float(HardConcrete().p_open(torch.tensor(log_alpha))) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("log_alpha", [-1.0, 0.0, 0.7])
def test_the_median_gate_is_the_median_of_the_samples(log_alpha: float) -> None:
    median = HardConcrete("median")(torch.tensor([log_alpha]), torch.Generator())
    assert float(median) == pytest.approx(float(_draws(log_alpha).median()), abs=0.01)


def test_a_sampled_gate_follows_the_formula() -> None:
    """s = sigmoid((log u - log(1 - u) + log_alpha) / beta); z = min(1, max(0, s (zeta - gamma) + gamma))."""
    u = torch.rand(GRID.shape, generator=torch.Generator().manual_seed(5))
    s = 1 / (1 + torch.exp(-(u.log() - (1 - u).log() + GRID) * 1.5))
    by_hand = (s * 1.2 - 0.1).clamp(0, 1)
    found = HardConcrete("sampled")(GRID, torch.Generator().manual_seed(5))
    torch.testing.assert_close(found, by_hand, rtol=1e-5, atol=1e-5)


def test_straight_through_gates_are_the_hard_ones() -> None:
    gates = HardConcrete("straight-through")(GRID, torch.Generator())
    assert torch.equal(gates, (GRID > 0).float())


@pytest.mark.parametrize("relaxation", ["median", "straight-through"])
def test_a_gate_closed_by_mistake_feels_the_way_back(relaxation: Relaxation) -> None:
    """The gradient is the logistic's of temperature 2, at the clamp too: sigmoid'(x / 2) / 2."""
    log_alpha = GRID.clone().requires_grad_()
    (slope,) = torch.autograd.grad(HardConcrete(relaxation)(log_alpha, torch.Generator()).sum(), log_alpha)
    by_hand = torch.tensor([math.exp(-x / 2) / (1 + math.exp(-x / 2)) ** 2 / 2 for x in GRID.tolist()])
    torch.testing.assert_close(slope, by_hand)
    assert slope.min() > 0.02


def test_log_alpha_is_clamped_in_place() -> None:
    log_alpha = torch.tensor([-60.0, 0.5, 60.0], requires_grad=True)
    HardConcrete().clamp_(log_alpha)
    assert log_alpha.tolist() == [-6.0, 0.5, 6.0]


def test_an_unknown_relaxation_is_refused() -> None:
    with pytest.raises(UnknownName, match="no gate relaxation 'sample'; did you mean 'sampled'"):
        HardConcrete("sample")  # type: ignore[arg-type]


# -- the dual variable ----------------------------------------------------------------------------------------------


@given(st.floats(0.01, 10), st.floats(1.01, 100))
def test_the_price_rises_above_the_budget_and_falls_below(budget: float, factor: float) -> None:
    above, below = Dual(budget), Dual(budget)
    assert above.update(budget * factor) > 1 > below.update(budget / factor)
    assert Dual(budget).update(budget) == pytest.approx(1)


def test_one_step_is_the_formula() -> None:
    """log base += rate * excess, price = base * exp(gain * excess); the average 0.7 old + 0.3 new, the excess to 1."""
    dual = Dual(budget=2.0, base=3.0, rate=0.1, gain=0.5, average=1.0)
    average = 0.7 * 1.0 + 0.3 * 6.0
    excess = average / 2 - 1
    assert dual.update(6.0) == pytest.approx(3 * math.exp(0.1 * excess) * math.exp(0.5 * excess))
    assert dual.average == pytest.approx(average)
    assert dual.base == pytest.approx(3 * math.exp(0.1 * excess))
    assert Dual(1.0, gain=0.0).update(1e6) == pytest.approx(math.exp(0.1))


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300))
def test_the_price_stays_within_its_bounds(values: list[float]) -> None:
    dual = Dual(0.3, low=0.5, high=2.0, gain=0.0)
    assert all(0.5 <= dual.update(value) <= 2.0 for value in values)


def test_the_price_holds_a_quantity_at_its_budget() -> None:
    """The quantity answers the price as 1 / price, so that the budget 0.25 asks for a price of 4."""
    dual, value = Dual(0.25), 1.0
    for _ in range(300):
        value = 1 / dual.update(value)
    assert dual.price == pytest.approx(4, rel=0.02)
    assert value == pytest.approx(0.25, rel=0.02)
