"""Harvests: the right states, no padding among them, a fair draw, a stop that costs one shard."""

import csv
import json
import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from subcircuit.concepts import harvest as module
from subcircuit.concepts.framing import Frame, Word
from subcircuit.concepts.harvest import Harvest
from subcircuit.concepts.index import SENTENCE
from subcircuit.concepts.reservoir import Reservoir
from subcircuit.concepts.states import States
from subcircuit.concepts.texts import Corpus, read_corpus
from subcircuit.errors import DataError, MissingExtra, NumericalError, ResourceError, UsageError
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from tiny import tiny
from tiny_concepts import FRAME, corpus, spoken
from tiny_files import Told
from tiny_tokenizers import byte_level, with_bos, word_pieces

ALL = Harvest(per_word=0, rows=40, batch=5)


def harvested(folder: Path, harvest: Harvest = ALL, texts: Corpus | None = None, **more: Any) -> States:
    return harvest.run(spoken(), texts or corpus(), FRAME, [0, 1, 2], folder, **more)


def test_a_state_is_that_of_its_word_alone(tmp_path: Path) -> None:
    """Each text is run by itself, without a batch and so without padding; half precision is all that may differ."""
    subject, texts = spoken(), corpus()
    found = harvested(tmp_path)
    words, sentences = found.vectors(2), found.vectors(2, sentences=True)
    place = 0
    for number, text in enumerate(texts.texts):
        framed = FRAME.around([text], subject.tokenizer)
        _, seen = subject.record(framed.prompts, [Site(2, Kind.RESID)])
        states = seen[Site(2, Kind.RESID)][0, :, 0]
        n = len(text.split())
        mine = words.take(np.arange(place, place + n))
        torch.testing.assert_close(mine, states[1 : n + 1], atol=2e-3, rtol=2e-3)  # after the template's first token
        torch.testing.assert_close(sentences.take(np.array([number]))[0], states[n + 1], atol=2e-3, rtol=2e-3)
        place += n
    assert place == len(words) == len(" ".join(texts.texts).split()) and len(sentences) == len(texts)
    assert [found.index.words[each] for each in found.index.word[found.index.text == 3] if each != SENTENCE] == (
        texts.texts[3].split()
    )


def test_shards_batches_and_precision_change_nothing_else(tmp_path: Path) -> None:
    one = harvested(tmp_path / "a", replace(ALL, rows=10_000, batch=64)).vectors(1)
    many = harvested(tmp_path / "b", replace(ALL, rows=7, batch=1)).vectors(1)
    full = harvested(tmp_path / "c", replace(ALL, precision="float32")).vectors(1)
    assert len(many.parts) > 10 > len(one.parts)
    chosen = torch.randperm(len(one), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(one.take(chosen), many.take(chosen), atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(one.take(chosen), full.take(chosen), atol=2e-3, rtol=2e-3)
    assert torch.equal(torch.cat(list(many.blocks(11))), many.take(torch.arange(len(many))))
    assert {part.dtype for part in many.parts} == {np.dtype("float16")} and isinstance(many.parts[0], np.memmap)


def test_moments_are_those_of_all_rows(tmp_path: Path) -> None:
    states = harvested(tmp_path).vectors(1)
    x = torch.cat(list(states.blocks()))
    mean, spread = states.moments()
    torch.testing.assert_close(mean, x.mean(0))
    assert spread == pytest.approx(float((x - x.mean(0)).square().mean().sqrt()), rel=1e-5)


def test_of_each_word_so_many_are_kept_with_even_chances() -> None:
    kept = Counter[int]()
    for seed in range(2000):
        reservoir = Reservoir(per_word=3, least=2, seed=seed)
        for text in range(12):
            words = [Word("the", 0, 0, 0, 0)] + ([Word("rare", 1, 4, 1, 1)] if text == 5 else [])
            reservoir.add(text, words, at=2)
        index = reservoir.index()
        rows = index.text[index.word != SENTENCE]
        assert len(rows) == 3 and index.words == ("the",)
        kept.update(rows.tolist())
    assert set(kept) == set(range(12))
    assert all(abs(count - 500) < 4 * (2000 * 0.25 * 0.75) ** 0.5 for count in kept.values())  # 3 of 12, 4 sigma


def test_a_harvest_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = harvested(tmp_path / "whole")
    save, left = module.save, [4]

    def failing(states: Any, path: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(states, path)

    monkeypatch.setattr(module, "save", failing)
    with pytest.raises(ResourceError, match="No space left on device"):
        harvested(tmp_path / "cut")
    with pytest.raises(DataError, match="is not finished"):
        States.load(tmp_path / "cut")
    there = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").rglob("*.npy")}
    assert len(there) == 4 and not list((tmp_path / "cut").rglob("*.part"))
    left[0] = 10**6
    told = Told()
    again = harvested(tmp_path / "cut", progress=told)
    assert told[-1][0] == "harvest" and told[-1][1] == told[-1][2] == len(corpus())
    for layer in (0, 1, 2):
        every = torch.arange(len(whole.vectors(layer)))
        assert torch.equal(whole.vectors(layer).take(every), again.vectors(layer).take(every))
    first = {path: written for path, written in there.items() if path.name == "00000.npy"}
    assert len(first) == 3 and all(path.stat().st_mtime_ns == written for path, written in first.items())


def test_a_finished_harvest_is_read_and_another_one_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harvested(tmp_path)
    monkeypatch.setattr(Harvest, "_write", None)
    assert len(harvested(tmp_path)) > 100
    with pytest.raises(UsageError, match=r"holds other states \(digest: \w+ -> \w+\)\n"):
        harvested(tmp_path, texts=corpus(seed=1))


@pytest.mark.parametrize("tokenizer", [byte_level, with_bos, word_pieces], ids=["bytes", "bos", "pieces"])
def test_words_lie_where_the_tokenizer_says(tokenizer: Any) -> None:
    text = "Yesterday Mary's keys, gave xylophonic joy..."
    framed = Frame(template="The review: {text} So").around([text, "Mary"], tokenizer())
    words, ids = framed.words[0], framed.prompts.ids[0]
    assert [word.text for word in words] == ["Yesterday", "Mary's", "keys", ",", "gave", "xylophonic", "joy", "..."]
    assert all(text[word.start : word.start + len(word.text)] == word.text for word in words)
    spelled = [tokenizer().decode(ids[word.first : word.last + 1]).replace(" ", "").replace("##", "") for word in words]
    assert [each.lower() for each in spelled] == [word.text.lower() for word in words]
    assert framed.own[0].sum() == sum(word.last - word.first + 1 for word in words)
    assert tokenizer().decode(framed.prompts.ids[1, framed.prompts.at[1]]).strip().lower() == "so"


def test_tokens_may_be_units_and_long_texts_are_cut() -> None:
    tokenizer = byte_level()
    framed = Frame(template="{text}", unit="token", tokens=3).around(["xylophonic joy of Mary"], tokenizer)
    assert len(framed.words[0]) == 3 == int(framed.own.sum())
    assert all(word.first == word.last for word in framed.words[0])


def test_encoders_are_judged_at_their_mask(tmp_path: Path) -> None:
    subject = Subject(tiny("bert").model, spoken().tokenizer, name="tiny-bert")
    frame = Frame(template="{text} a {mask} b", labels={"left": "2", "right": "3"})
    framed = frame.around(corpus().texts, subject.tokenizer)
    rows = torch.arange(len(framed))
    assert (framed.prompts.ids[rows, framed.prompts.at] == subject.tokenizer.mask_token_id).all()
    assert len(ALL.run(subject, corpus(), frame, [0, 1], tmp_path).vectors(1)) > 100
    with pytest.raises(UsageError, match=r"has no layer 2\nits residual stream is read at layers 0 to 1"):
        ALL.run(subject, corpus(), frame, [2], tmp_path / "b")


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="has no layer 3"):
        ALL.run(spoken(), corpus(), FRAME, [3], tmp_path / "a")
    with pytest.raises(DataError, match="no word occurs 99 times"):
        harvested(tmp_path / "b", replace(ALL, least=99)).vectors(1)
    with pytest.raises(UsageError, match="layer 7 was not harvested"):
        harvested(tmp_path / "c").vectors(7)
    huge = Subject(tiny("llama", seed=5).model, spoken().tokenizer)
    with torch.no_grad():
        huge.model.get_input_embeddings().weight.mul_(1e6)
    with pytest.raises(NumericalError, match=r"text 1, token 1, entering 0 is no number in float16"):
        ALL.run(huge, corpus(), FRAME, [0], tmp_path / "d")
    with pytest.raises(DataError, match=r"states\.json is missing"):
        States.load(tmp_path / "nowhere")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"pip install \"subcircuit\[concepts\]\""):
        harvested(tmp_path / "e")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"left": "2"}, "'left' is the only label"),
        ({"left": "2", "right": "2"}, "are one token"),
        ({"left": "2 3", "right": "4"}, "is 2 tokens"),
    ],
)
def test_label_words_are_checked(labels: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Frame(labels=labels).checked().answers(spoken().tokenizer)
    with pytest.raises(UsageError, match="it takes one"):
        Frame(template="no text").checked()


def test_texts_come_from_lines_records_and_tables(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("good, film", "pos"), ("  ", "neg"), ('bad "film"', "neg")]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t, "label": lb}) + "\n" for t, lb in rows) + "\n")
    (tmp_path / "a.txt").write_text('good, film\n\n   \nbad "film"\n')
    texts, labels = ("good, film", 'bad "film"'), ("pos", "neg")
    with caplog.at_level(logging.WARNING):
        assert read_corpus(tmp_path / "a.csv") == read_corpus(tmp_path / "a.jsonl") == Corpus(texts, labels)
        assert read_corpus(tmp_path / "a.txt") == Corpus(texts)
    assert "a.csv: 1 of 3 texts are empty and left out" in caplog.text
    assert read_corpus(tmp_path / "a.csv").first(1) == Corpus(texts[:1], labels[:1])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "\n \n", "holds no text"),
        ("a.csv", "review,label\nx,y\n", "has the columns"),
        ("a.jsonl", "{", "line 1 of a.jsonl is not JSON"),
        ("a.jsonl", '{"text": 3}', "has no field 'text'"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}', "line 2 of a.jsonl has no label"),
        ("a.txt", b"\xff\xfe\xff", "is not UTF-8"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        read_corpus(path)
    with pytest.raises(UsageError, match="is not a file"):
        read_corpus(tmp_path / "none.txt")
