"""Scores of edges on every decoder: gradients, brute force and sums that are known; and the paths they are taken on."""

import pytest
import torch
from torch import Tensor

from subcircuit.edge_gradients import Path, edge_attribution, passes
from subcircuit.edges import rewired, writer_sites
from subcircuit.errors import NumericalError, UnknownName
from subcircuit.sites import Kind, Site
from subcircuit.wiring import PROJECTIONS
from tiny_edges import EdgeStudy, decoders, edge_study, reference_of


@pytest.fixture
def study(decoder: str) -> EdgeStudy:
    return edge_study(decoder)


@decoders
def test_scores_are_the_gradients_of_the_edges_when_all_are_open(study: EdgeStudy) -> None:
    wiring, pairs = study.wiring, study.pairs
    scores = edge_attribution(*study)
    _require_near(scores, study.slopes(wiring.allowed.float()) * wiring.allowed / len(pairs))
    assert (scores[wiring.allowed] != 0).all()
    assert (scores[~wiring.allowed] == 0).all()


@decoders
def test_soft_tables_have_true_gradients(study: EdgeStudy) -> None:
    """Along a random direction, half-way between open and closed, where every norm is far from its clean input."""
    wiring, pairs = study.wiring, study.pairs
    at = 0.5 * wiring.allowed.float()
    way = torch.randn(at.shape, generator=torch.Generator().manual_seed(1)) * wiring.allowed

    def value(step: float) -> float:
        with rewired(study.subject, wiring, at + step * way, study.reference(study.rows)):
            return float(study.difference())

    predicted = float((study.slopes(at) * way).sum())
    assert (value(1e-3) - value(-1e-3)) / 2e-3 == pytest.approx(predicted, rel=2e-2, abs=2e-2 * len(pairs))


@decoders
def test_every_score_is_its_edge_patched_a_little(decoder: str) -> None:
    """Brute force: one edge at a time reads from a reference a five-hundredth of the way to the corrupted run."""
    subject, wiring, pairs, reference = study = edge_study(decoder, length=5)
    _, clean = subject.record(pairs.clean, writer_sites(subject))
    corrupt, step = reference(study.rows), 2e-3
    near = {
        sign: {site: torch.lerp(value, corrupt[site], sign * step) for site, value in clean.items()} for sign in (1, -1)
    }
    found = torch.zeros(wiring.allowed.shape)
    for reader, writer in wiring.allowed.nonzero().tolist():
        table = wiring.allowed.clone()
        table[reader, writer] = False
        for sign, values in near.items():
            with rewired(subject, wiring, table, values):
                found[reader, writer] -= sign * float(study.difference()) / (2 * step * len(pairs))
    _require_near(found, edge_attribution(*study), rel=2e-2, share=5e-3)


@decoders
def test_readers_gradients_sum_to_their_branchs_own(study: EdgeStudy) -> None:
    """Query, key and value heads to the attention branch's autograd gradient, the MLP and the logits to theirs.

    Seen along what the embeddings and whole MLPs add more than in the corrupted run.
    """
    subject, wiring, pairs, _ = study
    ends = {Site(len(subject), Kind.RESID): [wiring.last]}
    for layer in range(len(subject)):
        ends[Site(layer, Kind.ATTN_IN)] = [wiring.rows(Site(layer, kind)) for kind in PROJECTIONS]
        ends[Site(layer, Kind.MLP_IN)] = [wiring.rows(Site(layer, Kind.MLP))]
    scores, deltas = edge_attribution(*study), _deltas(study)
    for site, rows in ends.items():
        gradient = _gradient(study, site)
        for writer in (each for each in deltas if each.layer < site.layer or each.kind is Kind.RESID):
            expected = float((gradient * deltas[writer]).sum() / len(pairs))
            found = sum(float(scores[part, wiring.columns(writer)].sum()) for part in rows)
            assert found == pytest.approx(expected, rel=1e-3, abs=1e-4 * float(scores.abs().max())), (site, writer)


@decoders
def test_neither_padding_nor_batches_change_a_score(study: EdgeStudy) -> None:
    subject, wiring, pairs, _ = study
    together = edge_attribution(*study)
    _require_near(edge_attribution(*study, batch_size=1), together)
    ones = [pairs[[row]] for row in range(len(pairs))]  # cut to their own lengths: no padding is left
    alone = [edge_attribution(subject, wiring, one, reference_of(subject, one)) for one in ones]
    _require_near(torch.stack(alone).mean(0), together)


# -- paths -------------------------------------------------------------------------------------------------------------


@decoders
def test_over_inputs_the_embeddings_edges_sum_to_the_whole_effect(study: EdgeStudy) -> None:
    """What changes along that path is the embeddings, and all they do they do through their edges."""
    scores = edge_attribution(*study, path="inputs", steps=40)
    effect = (study.difference() - study.difference(study.pairs.corrupt)) / len(study.pairs)
    within = 0.02 * float(scores[:, 0].abs().sum())  # of what is summed: the sum itself may be next to nothing
    assert float(scores[:, 0].sum()) == pytest.approx(float(effect), abs=within)


@pytest.mark.parametrize("decoder", ["llama", "gpt2", "gpt_neox", "qwen3"])
@pytest.mark.parametrize("path", ["clean", "inputs", "activations", "clean-corrupt"])
def test_paths_are_what_their_papers_say(study: EdgeStudy, path: Path) -> None:
    """By hand: gradients in runs whose embeddings, or one layer's writers, lie between corrupted and clean."""
    subject, wiring, pairs, reference = study
    start, everything = Site(0, Kind.RESID), slice(0, len(wiring.writers))
    points: list[tuple[Site, float, slice, float]] = {  # whose values are moved, how near clean, for whom, its weight
        "clean": [(start, 1.0, everything, 1.0)],
        "clean-corrupt": [(start, share, everything, 0.5) for share in (0.0, 1.0)],
        "inputs": [(start, share, everything, 0.5) for share in (0.25, 0.75)],
        "activations": [
            (site, share, wiring.columns(site), 0.5) for site in writer_sites(subject) for share in (0.25, 0.75)
        ],
    }[path]
    _, clean = subject.record(pairs.clean, writer_sites(subject))
    corrupt, expected = reference(study.rows), torch.zeros(wiring.allowed.shape)
    for site, share, columns, weight in points:
        found = _slopes_between(study, site, torch.lerp(corrupt[site], clean[site], share), clean)
        expected[:, columns] += weight * found[:, columns] / len(pairs)
    told: list[int] = []
    scores = edge_attribution(*study, path=path, steps=2, on_step=told.append)
    _require_near(scores, expected)
    assert sum(told) == passes(subject, path, 2) * len(pairs)


def test_the_gradient_of_kl_is_nothing_at_the_clean_run_and_something_on_a_path() -> None:
    study = edge_study("llama")
    clean, path = edge_attribution(*study, objective="kl"), edge_attribution(*study, objective="kl", path="inputs")
    assert clean.abs().max() < 1e-3 * path.abs().max()


def test_unknown_paths_and_objectives_are_refused_with_the_nearest() -> None:
    study = edge_study("llama")
    with pytest.raises(UnknownName, match="no path 'input'; did you mean 'inputs'"):
        edge_attribution(*study, path="input")  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="no objective 'kll'; did you mean 'kl'"):
        edge_attribution(*study, objective="kll")  # type: ignore[arg-type]


def test_a_score_that_is_no_number_is_named() -> None:
    study = edge_study("llama")
    weight = study.subject.model.get_submodule("model.layers.1.mlp.down_proj").weight
    assert isinstance(weight, Tensor)
    weight.fill_(torch.nan)
    with pytest.raises(NumericalError, match=r"the score of input->0\.q\.0 is not finite"):
        edge_attribution(*study)


# -- the words of these tests ------------------------------------------------------------------------------------------


def _require_near(found: Tensor, expected: Tensor, rel: float = 1e-3, share: float = 1e-4) -> None:
    """Within `rel` of each score, or within `share` of the largest."""
    torch.testing.assert_close(found, expected, rtol=rel, atol=share * float(expected.abs().max()))


def _slopes_between(study: EdgeStudy, site: Site, value: Tensor, clean: dict[Site, Tensor]) -> Tensor:
    """The edges' gradients in a run that holds `value` at a site, along what writers add in the clean run."""
    subject, wiring, pairs, reference = study
    corrupt = reference(study.rows)
    with subject.editing({site: lambda act: value}):
        _, own = subject.record(pairs.clean, writer_sites(subject))
        near = {each: own[each] - (clean[each] - corrupt[each]) for each in own}  # so that own - near is as it is there
        with torch.enable_grad():
            table = wiring.allowed.float().requires_grad_()
            with rewired(subject, wiring, table, near):
                return torch.autograd.grad(study.difference(), table)[0]


def _gradient(study: EdgeStudy, site: Site) -> Tensor:
    """Autograd's gradient of the summed logit difference, by the stream that one branch alone takes in."""
    with torch.enable_grad():
        leaf = torch.zeros(*study.pairs.clean.ids.shape, 1, study.subject.units(Kind.MLP_OUT), requires_grad=True)
        with study.subject.editing({site: lambda act: act + leaf}):
            return torch.autograd.grad(study.difference(), leaf)[0]


def _deltas(study: EdgeStudy) -> dict[Site, Tensor]:
    sites = [Site(0, Kind.RESID), *study.subject.sites(Kind.MLP)]
    clean, corrupt = (study.subject.record(each, sites)[1] for each in (study.pairs.clean, study.pairs.corrupt))
    return {site: clean[site] - corrupt[site] for site in sites}
