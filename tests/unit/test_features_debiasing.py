"""Debiasing: accuracies by hand, a probe beside scikit-learn's, confounded biographies, the right features."""

import json
from pathlib import Path

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from subcircuit.errors import DataError, UsageError
from subcircuit.features.biographies import GENDERED, read_biographies, write_biographies
from subcircuit.features.codes import Codes, codes
from subcircuit.features.debiasing import Probe, accuracies, attributed, picked, pooled, word_share
from subcircuit.features.dictionary import Dictionary
from subcircuit.features.placing import Placed
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from tiny import random_prompts, shortened, tiny
from tiny_files import tokenizer

SITE = Site(1, Kind.RESID)


def exact() -> Dictionary:
    both = torch.cat([torch.eye(32), -torch.eye(32)])
    return Dictionary(both, both, torch.zeros(64), torch.zeros(32), "relu")


def labelled(n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 5, generator=generator) * torch.tensor([1.0, 10, 0.1, 1, 1]) + 3
    return x, x[:, 0] + 0.1 * x[:, 1] + 0.5 * torch.randn(n, generator=generator) > 3.3


def test_the_probe_is_logistic_regression() -> None:
    x, label = labelled()
    found = Probe.fit(x, label, ridge=0.01)
    scaled = ((x - x.mean(0)) / x.std(0)).numpy()
    theirs = LogisticRegression(C=1 / (0.01 * len(x)), tol=1e-8).fit(scaled, label.numpy())
    torch.testing.assert_close(found.weight * x.std(0), torch.tensor(theirs.coef_[0]).float(), atol=1e-3, rtol=1e-3)
    assert found(x).tolist() == theirs.predict(scaled).tolist()
    with pytest.raises(DataError, match="same label"):
        Probe.fit(x, torch.ones(60, dtype=torch.bool))


def test_accuracies_are_those_counted_by_hand() -> None:
    label = torch.tensor([0, 0, 0, 1, 1, 1]).bool()
    hers = torch.tensor([0, 1, 1, 0, 0, 1]).bool()
    said = torch.tensor([0, 1, 0, 1, 0, 1]).bool()
    found = accuracies(said, label, hers)
    assert (found.label, found.spurious, found.worst) == pytest.approx((4 / 6, 4 / 6, 0.5))
    with pytest.raises(DataError, match="has no text"):
        accuracies(said, label, label)


def test_pooled_is_the_mean_over_tokens_with_features_off() -> None:
    subject = tiny("llama")
    prompts = shortened(random_prompts(subject, 5))
    _, seen = subject.record(prompts, [SITE])
    expected = torch.stack([seen[SITE][row, 1:n, 0].mean(0) for row, n in enumerate(prompts.lengths.tolist())])
    torch.testing.assert_close(pooled(subject, prompts, SITE, batch=2), expected)
    placed = Placed(exact(), SITE, SITE)
    every = torch.stack(
        [seen[SITE][row, 1:n, 0].clamp(max=0).mean(0) for row, n in enumerate(prompts.lengths.tolist())]
    )
    without = pooled(subject, prompts, SITE, [placed], {SITE: range(32)}, batch=2)  # all positive parts
    torch.testing.assert_close(without, every)


def test_attribution_is_the_change_of_the_probes_logit() -> None:
    """Switching a feature off at the probe's own site moves the mean logits of the classes apart by what it adds."""
    subject = tiny("llama")
    prompts, placed = random_prompts(subject, 20), Placed(exact(), SITE, SITE)
    label = torch.arange(20) % 2 == 0
    x = pooled(subject, prompts, SITE)
    probe = Probe.fit(x, label)
    found = attributed(codes(subject, prompts, [placed], pool="mean")[SITE], placed, probe, label)
    without = pooled(subject, prompts, SITE, [placed], {SITE: [9]})
    lost = (x - without) @ probe.weight
    assert float(found[9]) == pytest.approx(float(lost[label].mean() - lost[~label].mean()), rel=1e-3)


def test_word_share_is_the_share_of_activation_on_the_words() -> None:
    subject = Subject(tiny("llama").model, tokenizer())
    prompts = random_prompts(subject, 3, length=4)
    prompts.ids[:] = torch.tensor(tokenizer()(["a b c d", "b a a c", "d d a b"]).input_ids)
    dense = torch.zeros(9, 3)
    dense[:, 0] = 1  # on everywhere; "a" is at rows 3 and 4, and 7, first tokens not counted
    dense[3, 1], dense[0, 1] = 3, 1
    found = word_share(subject, prompts, Codes.of(dense), ["a"])
    assert found.tolist() == pytest.approx([3 / 9, 3 / 4, 0])
    with pytest.raises(DataError, match="3 rows for 9 tokens"):
        word_share(subject, prompts, Codes.of(dense[:3]), ["a"])


def test_picked_goes_on_until_no_copy_of_the_attribute_is_left() -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(200) % 2 == 0
    copies = label.float()[:, None] * (1 + 0.2 * torch.rand(200, 5, generator=generator))
    other = label.float()[:, None] * (torch.rand(200, 3, generator=generator) < 0.5)
    dense = torch.cat([copies, other, torch.rand(200, 4, generator=generator) * 0.1], 1)
    share = torch.tensor([1.0] * 5 + [0.0] * 7)
    off, looked = picked(Codes.of(dense), label, SITE, share)
    assert sorted(off) == [0, 1, 2, 3, 4] and looked >= len(off)


def test_biographies_confound_and_balance() -> None:
    whole, test = write_biographies(30), write_biographies(10, "test")
    assert whole.group.bincount().tolist() == [30] * 4 and len(set(whole.texts)) > 110
    train = whole.confounded(20)
    assert torch.equal(train.label, train.hers) and len(train) == 40
    assert test.balanced(5).group.bincount().tolist() == [5] * 4
    assert write_biographies(30).texts == whole.texts != write_biographies(30, seed=1).texts
    for text, hers in zip(whole.texts, whole.hers.tolist(), strict=True):
        words = {*text.lower().replace(".", "").replace(",", "").split()}
        assert bool(words & {"she", "her"}) is hers or not words & {"she", "her", "he", "his", "him"}
    sentences = [{part.split(" ", 1)[1] for text in each.texts for part in text.split(". ")} for each in (whole, test)]
    shared = {each for each in sentences[0] & sentences[1] if each.startswith(("gives", "checks", "writes", "is on"))}
    assert not shared and "she" in GENDERED
    with pytest.raises(DataError, match="99 biographies are asked for, and his of the first occupation are 30"):
        whole.confounded(99)
    with pytest.raises(UsageError, match="split validation"):
        write_biographies(2, "validation")


def test_bias_in_bios_files_are_read(tmp_path: Path) -> None:
    rows = [
        {"hard_text": "He teaches.", "profession": 21, "gender": 0},
        {"hard_text": "She heals.", "profession": 13, "gender": 1},
        {"hard_text": "He sings.", "profession": 3, "gender": 0},
    ]
    (tmp_path / "bios.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_biographies(tmp_path / "bios.jsonl")
    assert found.texts == ("He teaches.", "She heals.") and found.group.tolist() == [0, 3]
    (tmp_path / "bios.csv").write_text("bio,job,sex\nShe heals.,13,1\nHe sings.,3,0\n")
    columns = ("bio", "job", "sex")
    assert read_biographies(tmp_path / "bios.csv", (3, 13), columns).group.tolist() == [3, 0]
    with pytest.raises(DataError, match="no hard_text, profession, gender; it has: bio, job, sex"):
        read_biographies(tmp_path / "bios.csv")
    with pytest.raises(DataError, match="no biography of the professions"):
        read_biographies(tmp_path / "bios.csv", (0, 1), columns)
    with pytest.raises(DataError, match="invalid literal"):
        read_biographies(tmp_path / "bios.csv", (0, 1), ("bio", "bio", "sex"))
    with pytest.raises(UsageError, match=r"no \.jsonl or \.csv"):
        read_biographies(tmp_path / "bios.parquet")
