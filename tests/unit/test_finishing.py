"""From relaxed gates to a hard circuit: thresholds on a toy function, greedy changes on a planted circuit."""

import pytest
import torch
from torch import Tensor

from subcircuit.circuit import Kept, sizes, tidy
from subcircuit.finishing import Validation, calibrate, reduced, reopened, reranked
from subcircuit.intervention import Reference, acting, effective, masked_logits
from subcircuit.metrics import kl
from subcircuit.progress import silent
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from tiny import HEADS, NEURONS, planted, random_pairs, tiny

KINDS = (Kind.BLOCK, Kind.ATTN, Kind.MLP, Kind.HEAD, Kind.CHANNEL, Kind.NEURON)
NEURON = Site(0, Kind.NEURON)
SCORES = {NEURON: torch.linspace(-6, 6, 25)}  # half a unit apart


def _open(kept: Kept) -> int:
    return int(kept[NEURON].sum())


# -- the threshold --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("needed", [1, 7, 20, 25])
def test_the_smallest_circuit_that_fits_is_found(needed: int) -> None:
    kept = calibrate(SCORES, lambda kept: _open(kept) >= needed, limit=6, tries=12)
    assert _open(kept) == needed
    assert kept[NEURON][-needed:].all()  # the best ones


@pytest.mark.parametrize("allowed", [1, 7, 20, 25])
def test_the_largest_circuit_that_fits_is_found(allowed: int) -> None:
    kept = calibrate(SCORES, lambda kept: _open(kept) <= allowed, limit=6, tries=12, largest=True)
    assert _open(kept) == allowed


def test_where_nothing_fits_the_nearest_end_is_returned() -> None:
    assert _open(calibrate(SCORES, lambda kept: False, limit=6)) == 25
    assert _open(calibrate(SCORES, lambda kept: False, limit=6, largest=True)) == 1  # what stands at the limit


def test_a_node_below_the_limits_stays_out_whatever_fits() -> None:
    """An earlier round has closed it."""
    barred = {NEURON: SCORES[NEURON].index_fill(0, torch.tensor(24), -8.0)}
    kept = calibrate(barred, lambda kept: False, limit=6)
    assert _open(kept) == 24 and not kept[NEURON][24]


def test_a_threshold_costs_no_more_runs_than_it_may() -> None:
    runs: list[int] = []

    def fits(kept: Kept) -> bool:
        runs.append(_open(kept))
        return runs[-1] > 3

    calibrate(SCORES, fits, limit=6, tries=5)
    assert len(runs) == 5


# -- what greedy changes start from ---------------------------------------------------------------------------------


def test_slopes_say_what_opening_a_unit_would_do() -> None:
    """Against a finite difference, also for a neuron that is off inside a branch that is off."""
    subject = tiny("llama")
    validation = _validation(subject)
    kept = {site: torch.ones(subject.units(site.kind)).bool() for site in subject.sites(*KINDS)}
    kept[Site(1, Kind.MLP)][:] = False
    kept[Site(1, Kind.NEURON)][:] = False
    slopes = validation.slopes(kept)
    mask = effective(subject, {site: truth.float() for site, truth in kept.items()})

    def loss(value: float) -> float:
        nudged = {site: each.clone() for site, each in mask.items()}
        nudged[Site(1, Kind.NEURON)][7] = value
        logits = masked_logits(subject, validation.pairs.clean, nudged, validation.reference)
        return float(kl(validation.full, logits).double().mean())

    rise = (loss(0.02) - loss(-0.02)) / 0.04
    assert abs(rise) > 1e-3
    assert float(slopes[Site(1, Kind.NEURON)][7]) == pytest.approx(rise, rel=0.02)


def test_the_planted_circuit_is_the_model_and_the_empty_one_is_not() -> None:
    subject = planted("llama")
    validation, kept = _validation(subject), _planted(subject)
    assert validation.kl(kept) == pytest.approx(0, abs=1e-6)
    assert validation.kl(_empty(kept)) > 0.1


# -- greedy changes -------------------------------------------------------------------------------------------------


def test_a_useless_head_is_closed_and_the_planted_ones_are_kept() -> None:
    subject = planted("llama")
    validation, exact = _validation(subject), _planted(subject)
    for layer, head in ((0, 2), (1, 0)):
        assert (layer, head) not in HEADS
        cluttered = _with_head(exact, layer, head, truth=True)
        left = reduced(cluttered, _all(subject), validation, 0.01, tries=12, tell=silent)
        assert all(torch.equal(left[site], truth) for site, truth in exact.items())


@pytest.mark.parametrize(("layer", "head"), HEADS)
def test_a_needed_head_is_reopened_before_any_other(layer: int, head: int) -> None:
    """One trial: its slope must point to the right one of six closed heads."""
    subject = planted("llama")
    validation, exact = _validation(subject), _planted(subject)
    broken = tidy(_with_head(exact, layer, head, truth=False))
    assert validation.kl(broken) > 0.05
    mended = reopened(broken, _all(subject), validation, tries=1, tell=silent)
    assert all(torch.equal(mended[site], truth) for site, truth in exact.items())


def test_nothing_is_reopened_that_an_earlier_round_has_closed() -> None:
    """Without gates on channels, so that nothing else keeps a head shut."""
    subject = planted("llama")
    layer, head = HEADS[0]
    broken = tidy(_with_head(_planted(subject), layer, head, truth=False))
    broken = {site: truth for site, truth in broken.items() if site.kind is not Kind.CHANNEL}
    mended = reopened(broken, broken, _validation(subject), tries=12, tell=silent)
    assert all((truth <= broken[site]).all() for site, truth in mended.items())


def test_closing_makes_no_more_trials_than_it_may_and_none_when_told_so() -> None:
    subject = planted("llama")
    exact = _with_head(_planted(subject), 0, 2, truth=True)
    told: list[tuple[str, int, int]] = []
    reduced(exact, _all(subject), _validation(subject), 0.01, tries=3, tell=lambda *step, **facts: told.append(step))
    assert told == [("closing", done, 3) for done in range(1, 4)]
    untouched = reduced(exact, _all(subject), _validation(subject), 0.01, tries=0, tell=silent)
    assert sizes(untouched) == sizes(exact)


# -- what lies at the lower limit -----------------------------------------------------------------------------------


def test_what_lies_at_the_lower_limit_is_ranked_by_what_it_promises() -> None:
    neuron, mlp = Site(0, Kind.NEURON), Site(0, Kind.MLP)
    scores = {mlp: torch.tensor([-6.0]), neuron: torch.tensor([-6.0, 2.0, -6.0, -5.0])}
    slopes = {neuron: torch.tensor([0.1, -9.0, -0.5, 0.0])}  # the third neuron lowers KL, the first raises it
    found = reranked(scores, slopes, 6.0)
    torch.testing.assert_close(found[neuron], torch.tensor([-6.0, 2.0, -5.5, -5.0]))
    torch.testing.assert_close(found[mlp], torch.tensor([-5.25]))  # as its best neuron does


# -- the words of these tests ---------------------------------------------------------------------------------------


def _validation(subject: Subject) -> Validation:
    pairs = random_pairs(subject, 8, 6, seed=1)
    reference = Reference(subject, "corrupt", pairs.clean, pairs.corrupt, acting(subject.sites(*KINDS)))
    return Validation(subject, pairs, reference, batch_size=8)


def _all(subject: Subject) -> dict[Site, Tensor]:
    return {site: torch.ones(subject.units(site.kind), dtype=torch.bool) for site in subject.sites(*KINDS)}


def _empty(kept: Kept) -> dict[Site, Tensor]:
    return {site: torch.zeros_like(truth) for site, truth in kept.items()}


def _planted(subject: Subject) -> dict[Site, Tensor]:
    kept = _all(subject)
    for layer in range(len(subject)):
        heads = [unit for at, unit in HEADS if at == layer]
        neurons = [unit for at, unit in NEURONS if at == layer]
        kept[Site(layer, Kind.HEAD)] = torch.zeros(4, dtype=torch.bool).index_fill(0, torch.tensor(heads), True)
        kept[Site(layer, Kind.NEURON)] = torch.zeros(48, dtype=torch.bool).index_fill(0, torch.tensor(neurons), True)
    return tidy(kept)


def _with_head(kept: Kept, layer: int, head: int, *, truth: bool) -> dict[Site, Tensor]:
    changed = {site: each.clone() for site, each in kept.items()}
    changed[Site(layer, Kind.HEAD)][head] = truth
    changed[Site(layer, Kind.CHANNEL)][8 * head : 8 * head + 8] = truth
    changed[Site(layer, Kind.ATTN)][:] = True
    return changed
