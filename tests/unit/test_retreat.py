"""When a search goes back to the last gates that were within its budget."""

import math

from subcircuit.methods._retreat import PATIENCE, Retreat


def test_kl_within_the_budget_is_told_from_kl_above_it() -> None:
    retreat = Retreat(budget=0.1)
    assert retreat.watch(0.1, 0.05)
    assert not retreat.watch(0.11, 0.05)
    assert not retreat.watch(0.05, 0.11)


def test_kl_that_stays_far_above_the_budget_is_a_trap() -> None:
    retreat = Retreat(budget=0.1)
    trapped = []
    for _ in range(PATIENCE):
        retreat.watch(0.5, 0.5)
        trapped.append(retreat.trapped)
    assert trapped == [False] * (PATIENCE - 1) + [True]
    retreat.back()
    assert (retreat.pace, retreat.trapped) == (0.5, False)


def test_kl_that_falls_or_is_near_the_budget_is_no_trap() -> None:
    falling, near, free = Retreat(budget=0.1), Retreat(budget=0.1), Retreat()
    for step in range(5 * PATIENCE):
        kl = 1e4 * math.exp(-step / 10)
        assert not falling.watch(kl, kl) and not falling.trapped
        assert not near.watch(0.19, 0.19) and not near.trapped
        assert free.watch(9.0, 9.0) and not free.trapped


def test_an_average_that_only_wavers_is_a_trap() -> None:
    retreat = Retreat(budget=0.1)
    for step in range(PATIENCE):
        retreat.watch(0.5, 0.5 + 0.05 * (-1) ** step)
    assert retreat.trapped
