"""What edges promise: an idle graph is the model, a closed one its reference, the rest a model written by hand."""

import pytest
import torch

from expanded import EXPANDED
from subcircuit.edge_gradients import edge_attribution
from subcircuit.edge_tables import best, connected
from subcircuit.edges import rewired, rewired_logits, writer_sites
from subcircuit.errors import UnsupportedModel
from subcircuit.intervention import Fill, Reference
from subcircuit.wiring import Wiring
from tiny import random_pairs, random_prompts, tiny
from tiny_edges import EdgeStudy, decoders, edge_study, encoders, half, names, reference_of

by_hand = pytest.mark.parametrize("decoder", EXPANDED)


@pytest.fixture
def study(decoder: str) -> EdgeStudy:
    return edge_study(decoder)


# -- on every decoder --------------------------------------------------------------------------------------------------


@decoders
def test_with_all_edges_open_the_model_is_itself(study: EdgeStudy) -> None:
    """Bit for bit."""
    subject, wiring, pairs, reference = study
    plain = subject.all_logits(pairs.clean)
    with rewired(subject, wiring, wiring.allowed, reference(study.rows)):
        assert torch.equal(subject.all_logits(pairs.clean), plain)


@decoders
def test_with_all_edges_closed_the_logits_are_the_corrupted_runs(study: EdgeStudy) -> None:
    subject, wiring, pairs, _ = study
    corrupt = subject.logits(pairs.corrupt)
    assert (corrupt - subject.logits(pairs.clean)).abs().amax(1).min() > 0.1
    torch.testing.assert_close(study.logits(torch.zeros(wiring.allowed.shape)), corrupt, rtol=1e-4, atol=1e-4)


@decoders
def test_with_half_of_the_edges_open_it_is_neither(study: EdgeStudy) -> None:
    subject, wiring, pairs, _ = study
    logits = study.logits(half(wiring, seed=3))
    for other in (pairs.clean, pairs.corrupt):
        assert (logits - subject.logits(other)).abs().amax(1).min() > 1e-2


@decoders
def test_edges_on_no_path_from_input_to_logits_change_nothing(study: EdgeStudy) -> None:
    wiring, dropped = study.wiring, 0
    for seed in range(12):
        lots = torch.rand(wiring.allowed.shape, generator=torch.Generator().manual_seed(seed))
        table = best(wiring, lots, 4 + 2 * seed)
        left = connected(wiring, table)
        torch.testing.assert_close(study.logits(left), study.logits(table), rtol=1e-4, atol=1e-4)
        dropped += int((table & ~left).sum())
    assert dropped > 24


@decoders
def test_padding_changes_no_prompt(study: EdgeStudy) -> None:
    subject, wiring, pairs, _ = study
    table = half(wiring, seed=3).float()
    together = study.logits(table)
    for row in range(len(pairs)):
        one = pairs[[row]]  # cut to its own length: no padding is left
        alone = rewired_logits(subject, wiring, one.clean, table, reference_of(subject, one))
        torch.testing.assert_close(together[[row]], alone, rtol=1e-4, atol=1e-4)


@decoders
def test_no_hook_outlives_a_run_however_it_ends(study: EdgeStudy) -> None:
    subject, wiring, pairs, _ = study
    study.logits(half(wiring, seed=3))
    edge_attribution(*study)
    with pytest.raises(KeyError), rewired(subject, wiring, half(wiring, seed=3), {}):  # no references: it breaks off
        subject.logits(pairs.clean)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in subject.model.modules())
    assert not any(weight.grad is not None for weight in subject.model.parameters())


@encoders
def test_encoders_are_refused_by_name(encoder: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"this {encoder} model is an encoder") as refusal:
        Wiring.of(tiny(encoder).layout)
    assert "node-pruning" in refusal.value.cure


# -- against models written out once more ------------------------------------------------------------------------------


@by_hand
def test_the_expanded_model_is_the_model(decoder: str) -> None:
    subject = tiny(decoder)
    prompts = random_prompts(subject)
    logits, _ = EXPANDED[decoder](subject.model).run(prompts.ids)
    torch.testing.assert_close(logits, subject.logits(prompts), rtol=1e-4, atol=2e-5)


@by_hand
@pytest.mark.parametrize("seed", range(3))
def test_half_of_the_edges_closed_is_the_expanded_model_without_them(decoder: str, seed: int) -> None:
    subject = tiny(decoder)
    wiring, pairs, expanded = Wiring.of(subject.layout), random_pairs(subject, seed=seed), EXPANDED[decoder]
    table = half(wiring, seed)
    _, corrupt = expanded(subject.model).run(pairs.corrupt.ids)
    expected, _ = expanded(subject.model).run(pairs.clean.ids, names(wiring, ~table), corrupt)
    logits = rewired_logits(subject, wiring, pairs.clean, table, reference_of(subject, pairs))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert (expected - subject.logits(pairs.clean)).abs().amax(1).min() > 1e-2


@by_hand
def test_every_single_edge_closed_is_the_expanded_model_without_it(decoder: str) -> None:
    subject = tiny(decoder)
    wiring, pairs, expanded = Wiring.of(subject.layout), random_pairs(subject, 2, 5), EXPANDED[decoder](subject.model)
    (plain, _), (_, corrupt) = expanded.run(pairs.clean.ids), expanded.run(pairs.corrupt.ids)
    moved = 0
    for name in names(wiring, wiring.allowed):
        table = wiring.allowed.clone()
        table[wiring.parse(name)] = False
        expected, _ = expanded.run(pairs.clean.ids, [name], corrupt)
        logits = rewired_logits(subject, wiring, pairs.clean, table, reference_of(subject, pairs))
        assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-4), name
        moved += bool((expected - plain).abs().max() > 1e-3)
    assert moved == wiring.allowed.sum()


@by_hand
@pytest.mark.parametrize("fill", ["mean", "zero", "resample"])
def test_other_references_fill_closed_edges(decoder: str, fill: Fill) -> None:
    """Means and zeros made by hand; under resampling every prompt reads from the donor that the seed draws."""
    subject = tiny(decoder)
    wiring, pairs, expanded = Wiring.of(subject.layout), random_pairs(subject), EXPANDED[decoder](subject.model)
    table, reference = half(wiring, seed=5), Reference(subject, fill, pairs.clean, pairs.corrupt, writer_sites(subject))
    _, own = expanded.run(reference.donors.ids if reference.donors else pairs.clean.ids)
    scale = {"mean": 1.0, "zero": 0.0}.get(fill)
    if scale is not None:
        own = {name: scale * value.mean((0, 1), keepdim=True) for name, value in own.items()}
    expected, _ = expanded.run(pairs.clean.ids, names(wiring, ~table), own)
    logits = rewired_logits(subject, wiring, pairs.clean, table, reference)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@by_hand
@pytest.mark.parametrize("fill", ["corrupt", "zero"])
@pytest.mark.parametrize("seed", range(3))
def test_a_reader_that_is_cut_off_sees_the_reference_and_no_rounding(decoder: str, fill: Fill, seed: int) -> None:
    """A norm would make as much of what rounding leaves of a stream of zeros as of any stream."""
    subject = tiny(decoder)
    wiring, pairs, expanded = Wiring.of(subject.layout), random_pairs(subject, seed=seed), EXPANDED[decoder]
    table = wiring.allowed.clone()
    table[torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))[: len(table) // 2]] = False
    _, own = expanded(subject.model).run(pairs.corrupt.ids)
    if fill == "zero":
        own = {name: torch.zeros_like(value) for name, value in own.items()}
    expected, _ = expanded(subject.model).run(pairs.clean.ids, names(wiring, ~table), own)
    reference = Reference(subject, fill, pairs.clean, pairs.corrupt, writer_sites(subject))
    logits = rewired_logits(subject, wiring, pairs.clean, table, reference)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@decoders
def test_logits_and_slopes_do_not_jump_where_a_sum_is_taken_from_its_other_end(decoder: str) -> None:
    """Below one half of its edges a reader's sum starts from the reference."""
    study = edge_study(decoder)
    found = []
    for share in (0.5 - 1e-6, 0.5 + 1e-6):
        table = study.wiring.allowed * share
        found.append((study.logits(table), study.slopes(table)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)
