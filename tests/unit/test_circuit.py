"""What makes a set of nodes a circuit, controls of its size, and the two files it is kept in."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from subcircuit.circuit import matched, sizes, tidy
from subcircuit.intervention import Fill, Reference, acting, masked_logits
from subcircuit.sites import PARENT, Kind, Site
from tiny import random_prompts, tiny

UNITS = {Kind.BLOCK: 1, Kind.ATTN: 1, Kind.MLP: 1, Kind.HEAD: 4, Kind.CHANNEL: 8, Kind.NEURON: 6}
FULL = tuple(UNITS)
EXTRA = {Kind.MLP_OUT: 5, Kind.KV: 2}
LAYERS = 3
Truth = dict[Site, Tensor]


def _drawn(seed: int, share: float, kinds: dict[Kind, int] = UNITS) -> Truth:
    """Random nodes of all kinds, valid or not."""
    generator = torch.Generator().manual_seed(seed)
    return {
        Site(layer, kind): torch.rand(units, generator=generator) < share
        for layer in range(LAYERS)
        for kind, units in kinds.items()
    }


def _scores(kept: Truth, seed: int) -> Truth:
    generator = torch.Generator().manual_seed(seed)
    return {site: torch.rand(len(truth), generator=generator) for site, truth in kept.items()}


def _faults(kept: Truth) -> list[str]:
    """Open children of closed parents, and open parents without a child, counted unit by unit."""
    faults = []
    kinds = {site.kind for site in kept}
    for site, truth in kept.items():
        up = PARENT.get(site.kind)
        while up is not None and up not in kinds:
            up = PARENT.get(up)
        for unit in truth.nonzero()[:, 0].tolist():
            if up is not None and not kept[Site(site.layer, up)][unit * len(kept[Site(site.layer, up)]) // len(truth)]:
                faults.append(f"{site}.{unit} has no {up}")
    inside = {Kind.ATTN: [Kind.HEAD], Kind.HEAD: [Kind.CHANNEL], Kind.MLP: [Kind.NEURON, Kind.MLP_OUT]}
    for site, truth in kept.items():
        for unit in truth.nonzero()[:, 0].tolist():
            for child in (kept.get(Site(site.layer, kind)) for kind in inside.get(site.kind, [])):
                if child is not None and not child.view(len(truth), -1)[unit].any():
                    faults.append(f"{site}.{unit} is hollow")
        branches = [kept.get(Site(site.layer, kind)) for kind in (Kind.ATTN, Kind.MLP)]
        if site.kind is Kind.BLOCK and truth and None not in branches and not any(b for b in branches if b is not None):
            faults.append(f"{site} is hollow")
    return faults


# -- tidy -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.floats(0, 1), st.sets(st.sampled_from([*UNITS, *EXTRA]), min_size=1))
def test_tidy_leaves_no_orphan_and_nothing_hollow(seed: int, share: float, kinds: set[Kind]) -> None:
    drawn = _drawn(seed, share, {kind: units for kind, units in (UNITS | EXTRA).items() if kind in kinds})
    clean = tidy(drawn)
    assert _faults(clean) == []
    assert all((truth <= drawn[site]).all() for site, truth in clean.items())  # it only closes
    assert all(torch.equal(truth, clean[site]) for site, truth in tidy(clean).items())


def test_tidy_by_hand() -> None:
    """Layer 0 loses a head without channels, and its MLP; layer 1 a block that holds nothing; layer 2 stays."""
    truth = {
        "0.block": [1], "0.attn": [1], "0.mlp": [0], "0.head": [1, 1], "0.channel": [1, 0, 0, 0], "0.neuron": [1, 1],
        "1.block": [1], "1.attn": [1], "1.mlp": [1], "1.head": [0, 0], "1.channel": [1, 1, 1, 1], "1.neuron": [0, 0],
        "2.block": [1], "2.attn": [0], "2.mlp": [1], "2.head": [0, 0], "2.channel": [0, 0, 0, 0], "2.neuron": [0, 1],
    }  # fmt: skip
    tidied = truth | {
        "0.head": [1, 0], "0.neuron": [0, 0],
        "1.block": [0], "1.attn": [0], "1.mlp": [0], "1.channel": [0, 0, 0, 0],
    }  # fmt: skip
    clean = tidy({Site.parse(name): torch.tensor(row).bool() for name, row in truth.items()})
    assert {str(site): kept.int().tolist() for site, kept in clean.items()} == tidied


def test_a_closed_block_closes_its_heads_also_where_branches_have_no_gates() -> None:
    kept = {Site(0, Kind.BLOCK): torch.tensor([False]), Site(0, Kind.HEAD): torch.ones(4).bool()}
    assert not tidy(kept)[Site(0, Kind.HEAD)].any()


def test_a_block_of_which_only_one_branch_has_gates_outlives_that_branch() -> None:
    """Its other branch is open, and still the circuit's own."""
    kept = {Site(0, Kind.BLOCK): torch.tensor([True]), Site(0, Kind.HEAD): torch.zeros(4).bool()}
    assert tidy(kept)[Site(0, Kind.BLOCK)].all()


@pytest.mark.parametrize(
    ("family", "fill", "extra"),
    [
        ("llama", "corrupt", (Kind.MLP_OUT, Kind.KV)),
        ("gpt2", "corrupt", (Kind.MLP_OUT, Kind.KV)),
        ("gemma2", "corrupt", (Kind.MLP_OUT, Kind.KV)),
        ("gpt2", "zero", (Kind.KV,)),
        ("gemma2", "mean", (Kind.KV,)),
        ("llama", "resample", (Kind.MLP_OUT,)),
    ],
)
def test_tidying_changes_no_logit(family: str, fill: Fill, extra: tuple[Kind, ...]) -> None:
    subject = tiny(family)
    clean, corrupt = random_prompts(subject, seed=1), random_prompts(subject, seed=2)
    generator = torch.Generator().manual_seed(0)
    sites = subject.sites(*FULL, *extra)
    reference = Reference(subject, fill, clean, corrupt, acting(sites))
    changed = 0
    for share in (0.3, 0.5, 0.7, 0.7, 0.9):
        kept = {site: torch.rand(subject.units(site.kind), generator=generator) < share for site in sites}
        tidied = tidy(kept)
        changed += any(not torch.equal(tidied[site], kept[site]) for site in sites)
        before, after = (
            masked_logits(subject, clean, {site: truth.float() for site, truth in each.items()}, reference)
            for each in (kept, tidied)
        )
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    assert changed


# -- controls of equal size -----------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.integers(0, 10**6), st.floats(0.05, 1))
def test_a_control_has_the_size_of_the_circuit_kind_by_kind(seed: int, share: float) -> None:
    kept = tidy(_drawn(seed, share))
    control = matched(kept, _scores(kept, seed + 1))
    assert sizes(control) == sizes(kept)
    assert _faults(control) == []


@given(st.integers(0, 10**6), st.floats(0.1, 1), st.sampled_from(["block,head", "attn,channel", "head,neuron", "mlp"]))
def test_a_control_is_valid_also_where_some_kinds_have_no_gates(seed: int, share: float, names: str) -> None:
    kept = tidy(_drawn(seed, share, {Kind(name): UNITS[Kind(name)] for name in names.split(",")}))
    control = matched(kept, _scores(kept, seed + 1))
    assert _faults(control) == []
    assert all(size.kept <= sizes(kept)[kind].kept for kind, size in sizes(control).items())


def test_the_same_scores_choose_the_same_control() -> None:
    kept = tidy(_drawn(3, 0.6))
    first, second = (matched(kept, _scores(kept, 5)) for _ in range(2))
    assert all(torch.equal(second[site], truth) for site, truth in first.items())
    other = matched(kept, _scores(kept, 6))
    assert any(not torch.equal(other[site], truth) for site, truth in first.items())


@given(st.integers(0, 10**6))
def test_scores_that_say_what_is_kept_choose_exactly_that(seed: int) -> None:
    kept = tidy(_drawn(seed, 0.6))
    control = matched(kept, {site: truth.float() for site, truth in kept.items()})
    assert all(torch.equal(control[site], truth) for site, truth in kept.items())


def test_every_open_parent_gets_its_best_child() -> None:
    """Two attention branches, two heads: one each, though both heads of layer 0 score higher than layer 1's."""
    kept = {Site(layer, Kind.ATTN): torch.tensor([True]) for layer in (0, 1)}
    kept |= {Site(layer, Kind.HEAD): torch.tensor([True, False]) for layer in (0, 1)}
    scores = {site: torch.ones(len(truth)) for site, truth in kept.items()}
    scores |= {Site(0, Kind.HEAD): torch.tensor([8.0, 9.0]), Site(1, Kind.HEAD): torch.tensor([2.0, 1.0])}
    control = matched(kept, scores)
    assert control[Site(0, Kind.HEAD)].tolist() == [False, True]
    assert control[Site(1, Kind.HEAD)].tolist() == [True, False]
