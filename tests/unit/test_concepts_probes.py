"""What is left of a label once a direction is gone, whether an answer follows a concept to another text, and seeds."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from concept_folders import LAYER, codebook_folder
from subcircuit.concepts.exchange import exchanged
from subcircuit.concepts.faithfulness import Faithfulness
from subcircuit.concepts.probing import Probe
from subcircuit.concepts.reading import read_texts
from subcircuit.concepts.states import States
from subcircuit.concepts.study import Study, refit
from subcircuit.concepts.texts import Corpus
from subcircuit.errors import UsageError
from tiny_concepts import FRAME, corpus, spoken, told

MEASURE = Faithfulness(steps=2, draws=2, batch=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("codebook")
    codebook_folder(path, scored=False)
    return path


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return Study.load(folder)


def planted(n: int = 120, width: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """The label is in coordinates 0 and, less plainly, 1; the others are noise."""
    generator = torch.Generator().manual_seed(0)
    gold = torch.arange(n) % 2
    states = torch.randn(n, width, generator=generator)
    states[:, 0] += 8 * (gold - 0.5)
    states[:, 1] += 4 * (gold - 0.5)
    return states, gold


def test_a_probe_sees_what_is_left() -> None:
    states, gold = planted()
    probe = Probe.of(states, gold, seed=0)
    assert probe is not None
    assert probe.once(states).mean() > 0.97
    first, both = states.clone(), states.clone()
    first[:, 0], both[:, :2] = 0, 0
    assert 0.35 < probe.once(both).mean() < 0.65 and 0.35 < probe.anew(both).mean() < 0.65  # nothing is left
    assert probe.anew(first).mean() > 0.9  # what is left, a probe finds that is taught on it
    turned = states.clone()
    turned[:, :2] *= -1
    assert probe.once(turned).mean() < 0.05 and probe.anew(turned).mean() > 0.97  # turned round is not taken away


def test_a_probe_needs_two_labels_in_every_fold() -> None:
    states, gold = planted(40)
    assert Probe.of(states, torch.zeros_like(gold), seed=0) is None
    assert Probe.of(states, (torch.arange(40) < 4).long(), seed=0) is None
    found = Probe.of(states, (torch.arange(40) < 5).long(), seed=0)
    assert found is not None and sorted(found.fold[:5].tolist()) == [0, 1, 2, 3, 4]


def test_the_probe_of_a_report_is_of_the_states_without_the_concept(study: Study) -> None:
    """Pooled by hand, from a hook of its own."""
    texts = told(spoken(), corpus(40, seed=3))
    report = MEASURE.run(spoken(), study.book, FRAME, texts)
    reading = read_texts(spoken(), study.book, FRAME, texts.texts, steps=2)
    wholes, lefts = [], []
    for row, text in enumerate(texts.texts):
        framed = FRAME.around([text], spoken().tokenizer)
        seen: list[torch.Tensor] = []
        handle = spoken().module(LAYER, "").register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        with torch.no_grad():
            spoken().logits(framed.prompts)
        handle.remove()
        h = seen[0][0, framed.words[0][0].first :]
        v = study.book.direction(int(reading.concepts[row]))
        wholes.append(h.mean(0))
        lefts.append((h - ((h - study.book.mean) @ v)[:, None] * v).mean(0))
    gold = torch.tensor([list(FRAME.labels).index(label) for label in texts.labels or ()])
    probe = Probe.of(torch.stack(wholes), gold, seed=0)
    assert (
        probe is not None
        and report.probe is not None
        and report.concept.probe is not None
        and report.concept.retrained is not None
    )
    assert report.probe.mean == pytest.approx(float(probe.once(probe.whole).mean()))
    assert report.concept.probe.mean == pytest.approx(float(probe.once(torch.stack(lefts)).mean()))
    assert report.concept.retrained.mean == pytest.approx(float(probe.anew(torch.stack(lefts)).mean()))


def test_a_whole_state_carries_its_words_answer_and_a_concept_its_coordinate(study: Study) -> None:
    """Text by text: the state that is put in place of the word's last one, and what the model then says."""
    subject, texts = spoken(), told(spoken(), corpus(16, seed=3))
    reading = read_texts(subject, study.book, FRAME, texts.texts, steps=2)
    found = exchanged(subject, study.book, reading, batch=5, seed=7)
    assert set(found) == {"concept", "random direction", "whole state"}
    generator = torch.Generator().manual_seed(7)
    donors = (reading.said[:, None] != reading.said).float().multinomial(1, generator=generator)[:, 0].tolist()
    states, answers = reading.at_salient(reading.states), FRAME.answers(subject.tokenizer)
    for row, donor in enumerate(donors):
        v = normalize(study.book.directions[int(reading.concepts[donor])], dim=0)
        own = reading.framed.words[row][int(reading.salient[row])].last
        prompt, want = FRAME.around([texts.texts[row]], subject.tokenizer).prompts, int(reading.said[donor])
        before = float(subject.logits(prompt)[0, answers].softmax(-1)[want])
        apart = states[donor] - states[row]
        for name, move in (("concept", (apart @ v) * v), ("whole state", apart)):

            def put(module: object, args: tuple[torch.Tensor], move: torch.Tensor = move, at: int = own) -> object:
                moved = args[0].clone()
                moved[0, at] += move
                return (moved,)

            handle = subject.module(LAYER, "").register_forward_pre_hook(put)
            with torch.no_grad():
                after = float(subject.logits(prompt)[0, answers].softmax(-1)[want])
            handle.remove()
            assert float(found[name][row]) == pytest.approx(after - before, abs=1e-5)


def test_one_answer_has_nothing_to_exchange(study: Study) -> None:
    texts = told(spoken(), corpus(40, seed=5))
    assert texts.labels is not None
    left = tuple(text for text, label in zip(texts.texts, texts.labels, strict=True) if label == texts.labels[0])[:4]
    report = MEASURE.run(spoken(), study.book, FRAME, Corpus(left, (texts.labels[0],) * len(left)))
    assert report.exchange == {} and report.probe is None and report.concept.retrained is None


def test_seeds_fit_again_and_say_what_their_concepts_do(folder: Path, study: Study) -> None:
    states, texts = States.load(folder / "states"), told(spoken(), corpus(12, seed=3))
    again = refit(study.book.about, states, range(3))
    assert list(again.books) == [0, 1, 2] and len(again.agreement) == 3
    assert torch.equal(again.books[0].directions, study.book.directions)
    assert again.books[1].about.layer == LAYER and again.books[1].about.settings["seed"] == 1
    reading = MEASURE.read(spoken(), study.book, FRAME, texts)
    found = MEASURE.across(spoken(), again.books, reading)
    for seed, each in zip(range(3), found, strict=True):
        alone = MEASURE.run(spoken(), again.books[seed], FRAME, texts)
        assert each.seed == seed and each.change.mean == pytest.approx(alone.concept.change.mean, abs=1e-6)
    assert found[0].ahead.mean == pytest.approx(
        found[0].change.mean - MEASURE.run(spoken(), study.book, FRAME, texts).controls["random direction"].change.mean,
        abs=1e-6,
    )
    other = study.book.about.model_copy(update={"revision": "sha256:1"})
    with pytest.raises(UsageError, match="holds states of tiny-llama"):
        refit(other, states, range(2))
