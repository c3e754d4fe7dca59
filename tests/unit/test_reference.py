"""What fills a node that is off: means, zeros and donors worked out by hand, cached or recomputed."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from subcircuit.errors import DataError, UnknownName
from subcircuit.intervention import Fill, Mask, Reference, acting, masked_logits
from subcircuit.sites import Kind, Site
from subcircuit.subject import Prompts, Subject
from tiny import random_prompts, shortened, tiny

# -- references -----------------------------------------------------------------------------------------------------


def test_the_mean_is_over_the_source_and_leaves_out_padding() -> None:
    subject, clean, corrupt = _setting("llama")
    source = shortened(random_prompts(subject, n=5, seed=9))
    site = Site(1, Kind.NEURON)
    reference = Reference(subject, "mean", clean, corrupt, [site], source=source, batch_size=2)
    rows = [subject.record(source[[row]], [site])[1][site][0] for row in range(len(source))]  # no padding in a row
    by_hand = torch.cat(rows).mean(0)
    assert int(source.mask.sum()) < source.ids.numel()
    torch.testing.assert_close(reference(torch.arange(3))[site][0, 0], by_hand, rtol=1e-5, atol=1e-6)


def test_zero_is_the_projection_of_nothing() -> None:
    subject, clean, corrupt = _setting("gpt2")
    path = "transformer.h.1.mlp.c_proj"
    handle = subject.model.get_submodule(path).register_forward_pre_hook(lambda _, args: (args[0] * 0,))
    by_hand = subject.logits(clean)
    handle.remove()
    closed = _run(subject, clean, corrupt, {Site(1, Kind.MLP): torch.zeros(1)}, "zero")
    torch.testing.assert_close(closed, by_hand, rtol=0, atol=1e-6)


def test_a_resampled_donor_is_another_prompt_of_the_same_length() -> None:
    subject = tiny("llama")
    clean = shortened(random_prompts(subject, n=12, seed=3))
    clean = clean[(clean.lengths < 9).nonzero()[:, 0]]  # the one whole row has no partner
    site = Site(0, Kind.NEURON)
    found = Reference(subject, "resample", clean, clean, [site], seed=4)(torch.arange(len(clean)))[site]
    own = subject.record(clean, [site])[1][site]
    for row, length in enumerate(clean.lengths.tolist()):
        donors = [
            other
            for other in range(len(clean))
            if clean.lengths[other] == length and torch.allclose(found[row, :length], own[other, :length], atol=1e-5)
        ]
        assert donors and row not in donors
    again = Reference(subject, "resample", clean, clean, [site], seed=4)
    assert torch.equal(again(torch.arange(len(clean)))[site], found)


def test_a_lone_length_cannot_be_resampled() -> None:
    subject = tiny("llama")
    clean = shortened(random_prompts(subject, n=3))
    with pytest.raises(DataError, match="row 2 is the only prompt of 6 tokens") as refusal:
        Reference(subject, "resample", clean, clean, [Site(0, Kind.HEAD)])
    assert "corrupt, mean, zero" in refusal.value.cure


def test_an_unknown_reference_is_refused() -> None:
    subject, clean, corrupt = _setting("llama")
    with pytest.raises(UnknownName, match="no reference 'corupt'; did you mean 'corrupt'"):
        Reference(subject, "corupt", clean, corrupt, [])  # type: ignore[arg-type]


# -- the cache ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", ["corrupt", "resample"])
def test_cached_values_are_the_recomputed_ones(fill: Fill) -> None:
    subject, clean, corrupt = _setting("llama")
    sites = acting(subject.sites(Kind.HEAD, Kind.MLP))
    cached, fresh = (
        Reference(subject, fill, clean, corrupt, sites, cache_bytes=size, batch_size=2) for size in (1 << 30, 0)
    )
    assert cached.cached > 0 and fresh.cached == 0
    for rows in torch.arange(len(clean)).split(2):
        for site in sites:
            assert torch.equal(cached(rows)[site], fresh(rows)[site])


def test_the_cache_is_as_large_as_it_says_and_no_larger_than_allowed() -> None:
    subject, clean, corrupt = _setting("llama")
    sites = acting(subject.sites(Kind.HEAD, Kind.NEURON))
    by_hand = 4 * 9 * 2 * (32 + 48) * 4  # prompts, positions, layers, channels and neurons, bytes of a float32
    full = Reference(subject, "corrupt", clean, corrupt, sites, cache_bytes=by_hand)
    assert full.cache is not None
    assert full.cached == full.bytes == by_hand == sum(values.nbytes for values in full.cache.values())
    assert Reference(subject, "corrupt", clean, corrupt, sites, cache_bytes=by_hand - 1).cached == 0
    assert Reference(subject, "zero", clean, corrupt, sites, cache_bytes=by_hand).cached == 0


def test_cached_rows_are_cut_to_the_longest_of_them() -> None:
    subject = tiny("gpt2")
    clean, corrupt = (shortened(random_prompts(subject, n=6, seed=seed)) for seed in (1, 2))
    mask = _random(subject, Kind.HEAD, Kind.NEURON)
    both = [
        masked_logits(
            subject,
            clean,
            mask,
            Reference(subject, "corrupt", clean, corrupt, acting(mask), cache_bytes=size),
            batch_size=2,
        )
        for size in (0, 1 << 30)
    ]
    torch.testing.assert_close(*both, rtol=1e-5, atol=1e-5)


def test_logits_come_back_in_the_order_of_the_prompts() -> None:
    """Batches are sorted by length; every row is compared with the row run alone, without padding."""
    subject = tiny("llama")
    clean, corrupt = (shortened(random_prompts(subject, n=7, seed=seed)) for seed in (1, 2))
    mask = {Site(1, Kind.HEAD): torch.tensor([0.0, 1.0, 0.0, 1.0])}
    together = _run(subject, clean, corrupt, mask, batch_size=3)
    alone = torch.cat([_run(subject, clean[[row]], corrupt[[row]], mask) for row in range(len(clean))])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert min(float((a - b).abs().max()) for a, b in pairwise(alone)) > 1e-2


# -- the words of these tests ---------------------------------------------------------------------------------------


def _setting(family: str) -> tuple[Subject, Prompts, Prompts]:
    subject = tiny(family)
    return subject, random_prompts(subject, seed=1), random_prompts(subject, seed=2)


def _random(subject: Subject, *kinds: Kind) -> dict[Site, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {site: torch.rand(subject.units(site.kind), generator=generator) for site in subject.sites(*kinds)}


def _run(
    subject: Subject, clean: Prompts, corrupt: Prompts, mask: Mask, fill: Fill = "corrupt", batch_size: int = 32
) -> Tensor:
    reference = Reference(subject, fill, clean, corrupt, acting(mask))
    return masked_logits(subject, clean, mask, reference, batch_size=batch_size)
