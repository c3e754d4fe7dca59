"""Circuits of features: planted ones are ranked first, and switching them off is the edit that one writes by hand."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from subcircuit.errors import DataError, NumericalError, UnknownName, UsageError
from subcircuit.features.ablation import ablating, judge, others
from subcircuit.features.circuits import Screen, links, rank
from subcircuit.features.codes import Codes, codes
from subcircuit.features.dictionary import Dictionary
from subcircuit.features.placing import Feature, Placed
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from tiny import planted, random_pairs, random_prompts, shortened, tiny

WIDTH = 32
HERE = Site(1, Kind.RESID)


def axes(seed: int = 0) -> Tensor:
    """Orthonormal directions, one a row."""
    return torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(seed))).Q.contiguous()


def exact(seed: int = 0) -> Dictionary:
    """The positive and the negative part of each coordinate on some axes: explains everything."""
    both = torch.cat([axes(seed), -axes(seed)])
    return Dictionary(both, both, torch.zeros(2 * WIDTH), torch.zeros(WIDTH), "relu")


def lossy() -> Dictionary:
    """Eight planted directions and a bias, so that most of an activation is the dictionary's error."""
    some = axes()[:8]
    return Dictionary(some, some, torch.zeros(8), torch.ones(WIDTH), "relu", centred=True)


# -- switching features off -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_nothing_off_changes_no_logit(family: str) -> None:
    subject = tiny(family)
    prompts = random_prompts(subject)
    placed = [Placed(lossy(), HERE, HERE)]
    with torch.no_grad():
        plain = subject.logits(prompts)
        with ablating(subject, placed, {}), ablating(subject, placed, {HERE: []}):
            assert torch.equal(subject.logits(prompts), plain)
        with ablating(subject, placed, {HERE: [3]}):
            assert not torch.allclose(subject.logits(prompts), plain)
        assert torch.equal(subject.logits(prompts), plain)


def test_a_planted_feature_off_is_the_edit_written_by_hand() -> None:
    subject = tiny("llama")
    prompts, direction = random_prompts(subject), axes()[3]

    def by_hand(act: Tensor) -> Tensor:
        along = ((act[:, 1:, 0] - 1) @ direction).clamp(min=0)  # the bias, 1 everywhere, is taken off first
        new = act.clone()
        new[:, 1:, 0] -= along[..., None] * direction
        return new

    with torch.no_grad():
        with subject.editing({HERE: by_hand}):
            expected = subject.logits(prompts)
        with ablating(subject, [Placed(lossy(), HERE, HERE)], {HERE: torch.tensor([3])}):
            torch.testing.assert_close(subject.logits(prompts), expected)


def test_a_transcoders_feature_is_taken_off_where_it_writes() -> None:
    subject = tiny("gpt2")
    prompts = random_prompts(subject)
    reads, writes = Site(0, Kind.MLP_IN), Site(0, Kind.MLP_OUT)
    coder = replace(exact(), decoder=torch.cat([axes(1), axes(2)]))
    _, seen = subject.record(prompts, [reads])
    amount = (seen[reads][:, :, 0] @ axes()[5]).clamp(min=0)
    amount[:, 0] = 0

    def by_hand(act: Tensor) -> Tensor:
        return act - (amount[..., None] * axes(1)[5])[..., None]

    with torch.no_grad():
        with subject.editing({writes: by_hand}):
            expected = subject.logits(prompts)
        with ablating(subject, [Placed(coder, reads, writes)], {reads: [5]}):
            torch.testing.assert_close(subject.logits(prompts), expected)


def test_a_heads_site_takes_features_across_its_units() -> None:
    subject = tiny("llama")
    site, prompts = Site(0, Kind.HEAD), random_prompts(subject)
    with torch.no_grad():
        with subject.editing({site: lambda act: torch.cat([act[:, :1], torch.zeros_like(act[:, 1:])], 1)}):
            expected = subject.logits(prompts)
        with ablating(subject, [Placed(exact(), site, site)], {site: range(2 * WIDTH)}):
            torch.testing.assert_close(subject.logits(prompts), expected, atol=1e-4, rtol=1e-4)


def test_faithfulness_and_completeness_have_their_ends() -> None:
    subject = planted("llama")
    pairs = random_pairs(subject, 6)
    placed = [Placed(exact(), HERE, HERE)]
    every = {HERE: range(2 * WIDTH)}
    whole, none = judge(subject, pairs, placed, every), judge(subject, pairs, placed, {})
    assert (whole.faithfulness, none.faithfulness) == pytest.approx((1, 0), abs=1e-4)
    assert (whole.completeness, none.completeness) == pytest.approx((0, 1), abs=1e-4)
    some = judge(subject, pairs, placed, {HERE: range(20)})
    with torch.no_grad(), ablating(subject, placed, others(placed, {HERE: range(20)})):
        logits = subject.logits(pairs.clean)
    rows = torch.arange(6)
    by_hand = logits[rows, pairs.right[:, 0]] - logits[rows, pairs.wrong[:, 0]]
    assert some.circuit == pytest.approx(float(by_hand.mean()), abs=1e-4)


def test_features_that_do_nothing_have_no_faithfulness() -> None:
    subject = tiny("llama")
    silent = replace(exact(), decoder=torch.zeros(2 * WIDTH, WIDTH))
    found = judge(subject, random_pairs(subject, 3), [Placed(silent, HERE, HERE)], {HERE: [1]})
    with pytest.raises(NumericalError, match="nothing to be faithful to"):
        _ = found.faithfulness


def test_features_and_sites_that_are_not_there_are_refused() -> None:
    subject = tiny("llama")
    placed = [Placed(exact(), HERE, HERE)]
    with pytest.raises(UnknownName, match=r"0\.resid"), ablating(subject, placed, {Site(0, Kind.RESID): [1]}):
        pass
    with pytest.raises(DataError, match="no feature 64 at"), ablating(subject, placed, {HERE: [1, 64]}):
        pass


# -- codes ----------------------------------------------------------------------------------------------------------


def test_codes_are_the_dictionarys_own_features_token_by_token_and_prompt_by_prompt() -> None:
    subject = tiny("llama")
    prompts = shortened(random_prompts(subject, 5))
    placed = [Placed(exact(), HERE, HERE)]
    tokens, means = (codes(subject, prompts, placed, pool=pool, batch=2)[HERE] for pool in ("tokens", "mean"))
    _, seen = subject.record(prompts, [HERE])
    rows = [seen[HERE][row, 1:length, 0] for row, length in enumerate(prompts.lengths.tolist())]
    dense = exact().encode(torch.cat(rows))
    every = torch.arange(2 * WIDTH)
    torch.testing.assert_close(tokens.columns(every).to_dense(), dense.double(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tokens.of_row(3), dense[3], atol=1e-4, rtol=1e-4)
    expected = torch.stack([exact().encode(row).mean(0) for row in rows])
    torch.testing.assert_close(means.columns(every).to_dense(), expected.double(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tokens.power(every), tokens.columns(every).to_dense().var(0, unbiased=False))
    assert tokens.fired.tolist() == (dense > 0).sum(0).tolist()


def test_features_that_seldom_fire_or_never_vary_take_no_part() -> None:
    dense = torch.zeros(100, 5)
    dense[:50, 0], dense[:1, 1], dense[:, 2], dense[:20, 3], dense[:30, 4] = 1, 1, 1, 1, 1
    made = Codes.of(dense)
    assert made.alive(0.1, 10).tolist() == [0, 3, 4] and made.alive(0.1, 2).tolist() == [0, 4]


# -- regressions ----------------------------------------------------------------------------------------------------


def sparse(rows: int = 2000, features: int = 40, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    on = torch.rand(rows, features, generator=generator) < 0.1
    return on * torch.rand(rows, features, generator=generator)


def test_ranking_finds_planted_features_and_their_slopes() -> None:
    dense = sparse()
    y = 3 * dense[:, 7] - 2 * dense[:, 21] + 0.01 * torch.randn(2000, generator=torch.Generator().manual_seed(1)) + 5
    found = rank(Codes.of(dense), y, HERE)
    assert found.best() == [7, 21] and found.explained > 0.99
    assert (float(found.slopes[7]), float(found.slopes[21])) == pytest.approx((3, -2), abs=0.15)
    row = torch.zeros(40)
    row[7], row[21], row[9] = 0.1, 0.9, 5.0
    assert found.best_of(row) == [21, 7] and found.best(1) == [7]


def test_ranking_in_a_model_finds_the_feature_that_a_label_hangs_on() -> None:
    subject = tiny("llama")
    prompts = random_prompts(subject, 80)
    of_prompts = codes(subject, prompts, [Placed(exact(), HERE, HERE)], pool="mean")[HERE]
    label = (of_prompts.columns(torch.tensor([11]))).to_dense()[:, 0]
    found = rank(of_prompts, (label > label.median()).float(), HERE)
    assert found.best(1) == [11]


def test_links_between_three_sites_are_those_of_the_model_that_made_them() -> None:
    first = sparse(seed=0)
    second = torch.zeros(2000, 30)
    second[:, 4], second[:, 5] = first[:, 3] + first[:, 9], 2 * first[:, 20]
    second[:, 6:] = sparse(features=24, seed=1)
    third = torch.zeros(2000, 10)
    third[:, 2], third[:, 3] = second[:, 4], first[:, 30] + second[:, 8]
    sites = [Site(layer, Kind.RESID) for layer in range(3)]
    made = {site: Codes.of(dense) for site, dense in zip(sites, (first, second, third), strict=True)}

    def strong(joint: bool) -> set[tuple[str, str]]:
        found = links(made, joint=joint)
        assert [abs(link.weight) for link in found] == sorted((abs(link.weight) for link in found), reverse=True)
        return {(str(link.source), str(link.target)) for link in found if abs(link.weight) > 0.2}

    within = {("0.resid#3", "1.resid#4"), ("0.resid#9", "1.resid#4"), ("0.resid#20", "1.resid#5")}
    assert strong(joint=False) == within | {("1.resid#4", "2.resid#2"), ("1.resid#8", "2.resid#3")}
    assert strong(joint=True) == strong(joint=False) | {("0.resid#30", "2.resid#3")}


def test_a_feature_that_layers_leave_alone_is_linked_to_itself() -> None:
    """Branches that add nothing: every feature persists."""
    subject: Subject = planted("llama", heads=[], neurons=[])
    placed = [Placed(exact(), Site(layer, Kind.RESID), Site(layer, Kind.RESID)) for layer in (1, 2)]
    found = links(codes(subject, random_prompts(subject, 40, length=12), placed))
    strongest: dict[Feature, Feature] = {}
    for link in found:
        strongest.setdefault(link.target, link.source)
    assert len(strongest) > WIDTH
    assert all(source.index == target.index for target, source in strongest.items())


def test_what_cannot_be_regressed_is_refused() -> None:
    made = Codes.of(sparse())
    with pytest.raises(DataError, match="same in all rows"):
        rank(made, torch.ones(2000), HERE)
    with pytest.raises(DataError, match="3 numbers to predict for 2000 rows"):
        rank(made, torch.ones(3), HERE)
    with pytest.raises(DataError, match=r"no feature at 1\.resid is on in 90\.0%"):
        rank(made, torch.rand(2000), HERE, Screen(share=0.9))
    with pytest.raises(DataError, match="different rows"):
        links({HERE: made, Site(2, Kind.RESID): Codes.of(sparse(rows=10))})
    with pytest.raises(UsageError, match="out of range"):
        Screen(shrink=2.0)
