"""Codebooks: what moves them, that they find what is there, and that an assignment is a state's own affair."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from subcircuit import plugins
from subcircuit.concepts.codebook import Codebook
from subcircuit.concepts.codebooks.clvq import CLVQ
from subcircuit.concepts.codebooks.kmeans import KMeans
from subcircuit.concepts.codebooks.sae import SAE
from subcircuit.concepts.codebooks.vqlc import VQLC
from subcircuit.concepts.codebooks.ward import Ward
from subcircuit.concepts.quantiser import Quantiser, squared_distances
from subcircuit.concepts.stability import adjusted_rand
from subcircuit.concepts.study import CODEBOOKS
from subcircuit.concepts.vectors import Vectors
from subcircuit.errors import DataError, NumericalError, UsageError
from tiny_concepts import clusters

SHORT: dict[str, Any] = {"steps": 40, "batch": 256}
METHODS: dict[str, Any] = {
    "kmeans": KMeans(12, **SHORT),
    "kmeans, plain": KMeans(12, spherical=False, **SHORT),
    "ward": Ward(12),
    "vqlc": VQLC(12, **SHORT),
    "sae": SAE(12, k=1, steps=300, batch=256, rate=1e-2, revive=20),
    "clvq": CLVQ(12, steps=20, batch=256, heads=4, hidden=32),
    "clvq, paper": CLVQ.paper(codes=12, steps=5, batch=256, heads=4, layers=1, hidden=32, rate=1e-3),
}


def fitted(name: str, x: torch.Tensor) -> tuple[Codebook, torch.Tensor]:
    found: tuple[Codebook, torch.Tensor] = METHODS[name].fit(Vectors.of(x), Vectors.of(x))
    return found


def test_every_method_of_the_table_is_tested() -> None:
    assert set(plugins.names(CODEBOOKS)) == {name.partition(",")[0] for name in METHODS}


def test_an_update_is_the_hand_computed_one() -> None:
    quantiser = Quantiser(torch.tensor([[0.0, 0.0], [10.0, 0.0]]), decay=0.5, eps=0.0)
    quantiser.update(torch.tensor([[2.0, 0.0], [4.0, 2.0], [8.0, 4.0]]), torch.tensor([0, 0, 1]))
    # counts 0.5 * 1 + 0.5 * (2, 1); sums 0.5 * (0, 0) + 0.5 * (6, 2) and 0.5 * (10, 0) + 0.5 * (8, 4)
    assert quantiser.counts.tolist() == [1.5, 1.0]
    torch.testing.assert_close(quantiser.codes, torch.tensor([[3 / 1.5, 1 / 1.5], [9.0, 2.0]]))


def test_counts_are_smoothed_and_only_written_back_where_asked() -> None:
    for write_back in (False, True):
        quantiser = Quantiser(torch.tensor([[0.0], [10.0]]), decay=0.5, eps=0.5, write_back=write_back)
        quantiser.update(torch.tensor([[2.0], [4.0]]), torch.tensor([0, 0]))
        # raw counts 1.5 and 0.5, total 2; smoothed (1.5 + 0.5) / 3 * 2 = 4/3 and (0.5 + 0.5) / 3 * 2 = 2/3
        torch.testing.assert_close(quantiser.codes, torch.tensor([[3 / (4 / 3)], [5 / (2 / 3)]]))
        expected = [4 / 3, 2 / 3] if write_back else [1.5, 0.5]
        torch.testing.assert_close(quantiser.counts, torch.tensor(expected))


def test_temperature_zero_is_the_nearest_and_a_small_one_comes_to_it() -> None:
    z = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    quantiser = Quantiser(z[:9].clone())
    nearest = torch.cdist(z, quantiser.codes).argmin(1)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(quantiser.assign(z), nearest)
    assert torch.equal(quantiser.assign(z, top=5, temperature=0.0, generator=generator), nearest)
    assert torch.equal(quantiser.assign(z, top=5, temperature=1e-9, generator=generator), nearest)
    warm = quantiser.assign(z, top=5, temperature=1.0, generator=generator)
    ranks = torch.cdist(z, quantiser.codes).argsort(1).argsort(1).gather(1, warm[:, None])
    assert 0.2 < (warm != nearest).float().mean() < 0.9 and int(ranks.max()) == 4


def test_the_draw_follows_its_odds_at_every_scale() -> None:
    codes = torch.tensor([[1.0], [2.0], [50.0]])
    for size in (1.0, 1000.0):
        quantiser = Quantiser(codes * size)
        drawn = quantiser.assign(
            torch.zeros(20_000, 1), top=2, temperature=2.0, generator=torch.Generator().manual_seed(0)
        )
        odds = torch.softmax(torch.tensor([-1.0, -4.0]) / 2.0, 0)  # over the median squared distance, size^2
        assert float((drawn == 0).float().mean()) == pytest.approx(float(odds[0]), abs=0.01)
        assert 2 not in drawn


def test_dead_codes_begin_anew_at_states() -> None:
    z = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    quantiser = Quantiser(torch.cat([z[:2], torch.full((2, 4), 99.0)]), decay=0.5, least=0.2)
    for _ in range(6):
        quantiser.update(z, quantiser.assign(z))
    assert quantiser.revive(z, torch.Generator().manual_seed(0)) == 2
    assert (squared_distances(quantiser.codes[2:], z).min(1).values < 1e-4).all()
    assert len(quantiser.assign(z).unique()) == 4


@pytest.mark.parametrize("name", METHODS)
def test_planted_clusters_are_found_and_all_codes_used(name: str) -> None:
    x, truth = clusters()
    book, assigned = fitted(name, x)
    assert adjusted_rand_score(truth, assigned) == pytest.approx(1.0)
    assert len(book) == 12 and book.about.asked == 12 and book.about.perplexity == pytest.approx(12, rel=0.01)
    assert torch.equal(book.assign(x)[0], assigned)
    means = torch.stack([x[assigned == code].mean(0) for code in range(12)])
    torch.testing.assert_close(book.directions, means - x.mean(0), atol=1e-3, rtol=1e-3)
    assert 0.98 <= float((book.members(x) >= 0).float().mean()) <= 0.995


@pytest.mark.parametrize("name", METHODS)
def test_an_assignment_does_not_depend_on_its_batch(name: str) -> None:
    x = torch.randn(600, 16, generator=torch.Generator().manual_seed(1)) * 5 + 3  # no clusters: many near ties
    book, _ = fitted(name, x)
    whole, away = book.assign(x)
    for size in (1, 7, 64):
        parts = [book.assign(part) for part in x.split(size)]
        assert torch.equal(torch.cat([codes for codes, _ in parts]), whole)
        torch.testing.assert_close(torch.cat([each for _, each in parts]), away, atol=1e-3, rtol=1e-4)
    plain = book.encoder is None and book.offsets is None
    exact = torch.cdist(book.encode(x.double()), book.codes.double()).argmin(1) if plain else whole
    assert torch.equal(whole, exact)


@pytest.mark.parametrize("name", ["kmeans", "vqlc", "clvq"])
def test_a_seed_makes_the_same_codebook_again(name: str) -> None:
    x, _ = clusters(300)
    first, second = fitted(name, x)[0], fitted(name, x)[0]
    assert torch.equal(first.codes, second.codes)


@pytest.mark.parametrize("name", METHODS)
def test_saved_and_loaded_it_is_the_same(name: str, tmp_path: Path) -> None:
    x, _ = clusters(300)
    book, assigned = fitted(name, x)
    book.save(tmp_path)
    again = Codebook.load(tmp_path)
    assert again.about == book.about and again.threshold == book.threshold
    assert torch.equal(again.assign(x)[0], assigned)


def test_similar_codes_come_by_cosine() -> None:
    x, _ = clusters(300)
    book, _ = fitted("kmeans", x)
    cosines = torch.nn.functional.cosine_similarity(book.directions[3][None], book.directions, dim=-1)
    best = [code for code in cosines.argsort(descending=True).tolist() if code != 3][:4]
    assert [code for code, _ in book.similar(3, 4)] == best


def test_agreement_is_scikit_learns_and_a_stable_method_agrees_with_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randint(5, (200,), generator=generator) for _ in range(2))
    assert adjusted_rand(first, second) == pytest.approx(adjusted_rand_score(first, second))
    assert adjusted_rand(first, (first + 1) % 5) == pytest.approx(1.0)
    assert adjusted_rand(torch.zeros(9, dtype=torch.long), torch.zeros(9, dtype=torch.long)) == 1.0
    assigned = [replace(METHODS["kmeans"], seed=seed).fit(Vectors.of(clusters()[0]))[1] for seed in (0, 1)]
    assert adjusted_rand(*assigned) == pytest.approx(1.0)


@pytest.mark.parametrize("name", METHODS)
def test_what_cannot_be_fitted_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="5 states cannot fill 12 codes"):
        fitted(name, torch.randn(5, 8))
    broken = torch.randn(50, 8)
    broken[31, 2] = torch.nan
    with pytest.raises(NumericalError, match="row 31 of the states is not finite"):
        fitted(name, broken)


def test_other_refusals(tmp_path: Path) -> None:
    x, _ = clusters(300)
    with pytest.raises(UsageError, match="clvq predicts a higher layer"):
        METHODS["clvq"].fit(Vectors.of(x))
    book, _ = fitted("kmeans", x)
    with pytest.raises(DataError, match="of width 24; these are 8 wide"):
        book.assign(torch.zeros(2, 8))
    with pytest.raises(UsageError, match="holds no codebook"):
        Codebook.load(tmp_path)
    book.save(tmp_path)
    (tmp_path / "codebook.safetensors").write_bytes(b"no")
    with pytest.raises(DataError, match="cannot be read"):
        Codebook.load(tmp_path)
