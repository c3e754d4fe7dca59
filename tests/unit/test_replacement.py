"""Joint replacement: nothing changes nothing, everything is the other run, and between them a run edited by hand."""

import sys
import types
from dataclasses import replace

import pytest
import torch

from subcircuit import metrics
from subcircuit.errors import DataError, NumericalError, UnknownName, UsageError
from subcircuit.noise import Noise
from subcircuit.replacement import METRICS, Direction, Replacement, find_metric
from subcircuit.sites import Kind, Site
from subcircuit.subject import Prompts, Subject
from subcircuit.tasks._base import Pairs
from tiny import CONFIGS, random_pairs, shortened, tiny

ALL = (Kind.HEAD, Kind.MLP)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return tiny("llama")


@pytest.fixture(scope="module")
def pairs(subject: Subject) -> Pairs:
    """Rows of several lengths, the longest first, whose last tokens are those of their counterfactuals."""
    drawn = random_pairs(subject, 5, 9, 3)
    clean, corrupt = shortened(drawn.clean), shortened(drawn.corrupt)
    rows = torch.arange(len(drawn))
    ids = corrupt.ids.clone()
    ids[rows, clean.at] = clean.ids[rows, clean.at]
    return replace(drawn, clean=clean, corrupt=replace(corrupt, ids=ids))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_nothing_replaced_is_no_effect_and_everything_the_other_run(
    subject: Subject, pairs: Pairs, metric: str, direction: Direction
) -> None:
    """The judged token is the same in both prompts, so that heads and MLPs make all of the difference."""
    found = Replacement(subject, pairs, subject.sites(*ALL), metric, direction=direction, batch_size=2)
    nothing = {site: torch.ones(subject.units(site.kind)) for site in subject.sites(*ALL)}
    assert torch.equal(found.change(found.logits(nothing)), torch.zeros(len(pairs)))
    first, second = (pairs.clean, pairs.corrupt) if direction == "noise" else (pairs.corrupt, pairs.clean)
    with torch.no_grad():
        before, after, clean = (subject.logits(each) for each in (first, second, pairs.clean))
    judge = METRICS[metric].judge
    expected = judge(after, pairs, clean) - judge(before, pairs, clean)
    torch.testing.assert_close(found.whole, expected if direction == "denoise" else -expected, rtol=1e-4, atol=1e-4)
    assert metric == "accuracy" or found.whole.abs().min() > 1e-4


def test_half_replaced_is_what_a_hook_by_hand_makes(subject: Subject, pairs: Pairs) -> None:
    site, rows = Site(1, Kind.HEAD), torch.tensor([2, 0])
    few = pairs[rows]
    with torch.no_grad():
        other = subject.record(few.corrupt, [site])[1][site]
        with subject.editing({site: lambda act: 0.5 * act + 0.5 * other}):
            expected = subject.logits(few.clean)
        found = Replacement(subject, pairs, [site], "odds-ratio").run(rows, {site: torch.full((4,), 0.5)})
    torch.testing.assert_close(found, expected)


def test_rows_may_repeat_under_masks_of_their_own(subject: Subject, pairs: Pairs) -> None:
    site, rows = Site(0, Kind.HEAD), torch.tensor([3, 1, 3])
    gates = torch.tensor([[1.0, 1, 0, 1], [0.0, 1, 1, 1], [1.0, 0, 1, 1]])
    for cache in (0, 1 << 30):
        found = Replacement(subject, pairs, [site], "odds-ratio", cache_bytes=cache)
        with torch.no_grad():
            together = found.run(rows, {site: gates})
            alone = [found.run(rows[[i]], {site: gates[i]})[0] for i in range(3)]
        torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-4)


def test_an_odds_ratio_is_relative_and_its_change_a_logarithm(subject: Subject, pairs: Pairs) -> None:
    found = Replacement(subject, pairs, subject.sites(*ALL), "odds-ratio")
    rows = torch.arange(len(pairs))

    def odds(prompts: Prompts) -> torch.Tensor:
        with torch.no_grad():
            p = subject.logits(prompts).softmax(-1)
        return p[rows, pairs.wrong[:, 0]] / p[rows, pairs.right[:, 0]]

    ell = (odds(pairs.corrupt) - odds(pairs.clean)) / odds(pairs.clean)
    torch.testing.assert_close(found.relative(found.whole), ell, rtol=1e-3, atol=1e-3)
    assert found.wrong_way == int((ell < 0).sum())


# -- noise ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", CONFIGS)
def test_noise_is_on_the_tokens_that_differ_and_nowhere_else(family: str) -> None:
    subject = tiny(family)
    clean = random_pairs(subject, 3, 7, 1).clean
    ids = clean.ids.clone()
    ids[:, 2] = (ids[:, 2] - 2) % 60 + 3
    site, rows = Site(0, Kind.RESID), torch.tensor([0, 1, 2])
    plain = subject.record(clean, [site])[1][site]
    for everywhere in (False, True):
        noise = Noise(subject, clean, replace(clean, ids=ids), everywhere=everywhere, seed=0)
        with noise.added(rows):
            added = subject.record(clean, [site])[1][site] - plain
        assert (added.abs().amax(-1)[:, 2] > 0).all()
        assert everywhere == bool((added[:, [0, 1, 3, 4, 5, 6]] != 0).any())
        assert float(added[:, 2].std()) == pytest.approx(3 * float(plain.std()), rel=0.3)


def test_clean_values_restore_a_noisy_run(subject: Subject, pairs: Pairs) -> None:
    """All heads and MLPs clean, and the noise not on the judged token: the clean run's answer."""
    found = Replacement(subject, pairs, subject.sites(*ALL), "kl", direction="denoise", fill="noise")
    assert found.base.max() < -1e-3  # the noise does something
    torch.testing.assert_close(found.whole, -found.base, rtol=1e-3, atol=1e-4)


def test_noise_put_into_the_clean_run_is_the_noisy_run(subject: Subject, pairs: Pairs) -> None:
    there, back = (
        Replacement(subject, pairs, subject.sites(*ALL), "logit-difference", direction=direction, fill="noise", seed=4)
        for direction in ("noise", "denoise")
    )
    torch.testing.assert_close(there.whole, back.whole, rtol=1e-3, atol=1e-3)


# -- refusals ---------------------------------------------------------------------------------------------------------


def margin(logits: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """A metric of one's own."""
    return 2 * metrics.logit_difference(logits, pairs.right, pairs.wrong)


def broken(logits: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """Not finite in its second row."""
    return margin(logits, pairs).masked_fill(torch.arange(len(pairs)) == 1, torch.inf)


def single(logits: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """A mean where numbers are wanted."""
    return margin(logits, pairs).mean()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that holds the functions above, by a name that can be imported."""
    module = types.ModuleType("own_metrics")
    module.__dict__.update(margin=margin, broken=broken, single=single)
    monkeypatch.setitem(sys.modules, "own_metrics", module)
    return "own_metrics"


def test_a_function_of_ones_own_is_a_metric(subject: Subject, pairs: Pairs, here: str) -> None:
    own, difference = (
        Replacement(subject, pairs, subject.sites(*ALL), name) for name in (f"{here}:margin", "logit-difference")
    )
    torch.testing.assert_close(own.whole, 2 * difference.whole)


def test_a_metric_that_is_not_finite_is_refused_with_its_row(subject: Subject, pairs: Pairs, here: str) -> None:
    with pytest.raises(NumericalError, match="the metric own_metrics:broken of row 1 is not finite with nothing"):
        Replacement(subject, pairs, subject.sites(*ALL), f"{here}:broken")


def test_a_metric_gives_a_number_for_each_prompt(subject: Subject, pairs: Pairs, here: str) -> None:
    with pytest.raises(UsageError, match=r"gave \(\) for 5 prompts"):
        Replacement(subject, pairs, subject.sites(*ALL), f"{here}:single")


def test_a_counterfactual_of_another_length_is_refused_with_its_row(subject: Subject, pairs: Pairs) -> None:
    longer = replace(pairs, corrupt=random_pairs(subject, 5, 9, 3).corrupt)
    with pytest.raises(DataError, match="row 1 has 7 tokens and its counterfactual 9"):
        Replacement(subject, longer, subject.sites(*ALL), "kl")


@pytest.mark.parametrize(
    ("name", "message"),
    [("odds", "no metric 'odds'; did you mean"), ("no_such:f", "cannot be imported"), ("math:f", "cannot be imported")],
)
def test_a_metric_that_is_none_is_refused(name: str, message: str) -> None:
    with pytest.raises((UnknownName, UsageError), match=message):
        find_metric(name)
