"""Answers about concepts are those of the library: by hand, by `explain` and by `Faithfulness` on one text."""

from typing import Any

import pytest
import torch
from torch import Tensor

from concept_folders import LAYER
from live_concepts import LiveConcepts
from subcircuit.concepts.explaining import explain
from subcircuit.concepts.faithfulness import Faithfulness
from subcircuit.concepts.texts import Corpus
from subcircuit.errors import DataError, Interrupted, SubcircuitError
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.view.concept_questions import ConceptAnswer, ConceptQuestion
from subcircuit.view.concepts import ConceptSession
from tiny import tiny
from tiny_concepts import FRAME

TEXT = "q r a m x b"


def asked(concepts: LiveConcepts, **changes: Any) -> ConceptAnswer:
    return concepts.session.answer(ConceptQuestion(**{"text": TEXT, **changes}))


def by_hand(concepts: LiveConcepts, code: int, places: list[int]) -> Tensor:
    """Shares of the labels with a concept's direction, about the mean, out of the states at these positions."""
    book, subject = concepts.study.book, concepts.subject
    v = book.directions[code] / book.directions[code].norm()

    def edit(act: Tensor) -> Tensor:
        new = act.clone()
        for place in places:
            h = act[0, place, 0]
            new[0, place, 0] = h - ((h - book.mean) @ v) * v
        return new

    prompts = FRAME.around([TEXT], subject.tokenizer).prompts
    with torch.no_grad(), subject.editing({Site(LAYER, Kind.RESID): edit}):
        logits = subject.logits(prompts)[0]
    found: Tensor = logits[FRAME.answers(subject.tokenizer)].softmax(-1)
    return found


@pytest.mark.parametrize(("where", "places"), [("text", range(1, 8)), ("judged", [7]), ("salient", None)])
def test_a_concept_is_taken_out_of_the_states(concepts: LiveConcepts, where: str, places: list[int] | None) -> None:
    answer = asked(concepts, code=3, where=where)
    at = list(places) if places is not None else [1 + answer.salient]  # the template puts one token first
    expected = by_hand(concepts, 3, at)
    assert list(answer.concept.shares.values()) == pytest.approx(expected.tolist(), abs=1e-5)
    assert answer.now == list(FRAME.labels)[int(expected.argmax())]
    whole = by_hand(concepts, 3, [])
    assert list(answer.shares.values()) == pytest.approx(whole.tolist(), abs=1e-5)
    assert answer.probability == pytest.approx(float(whole.max()), abs=1e-5)
    assert answer.concept.change == pytest.approx(abs(answer.concept.probability - answer.probability), abs=1e-6)
    assert answer.concept.change > 1e-4


def test_it_reads_what_explain_reads(concepts: LiveConcepts) -> None:
    answer, (told,) = asked(concepts), explain(concepts.subject, concepts.study, [TEXT], words=99)
    assert (answer.answer, answer.probability) == (told.answer, pytest.approx(told.probability))
    ranked = sorted(answer.words, key=lambda each: -abs(each.score))
    assert [(each.word, each.code, each.assigned) for each in ranked] == [
        (each.word, each.code, each.assigned) for each in told.words
    ]
    assert [each.score for each in ranked] == pytest.approx([each.score for each in told.words])
    assert answer.words[answer.salient] == ranked[0] and answer.code == ranked[0].code


def test_the_control_is_the_one_of_a_score(concepts: LiveConcepts) -> None:
    answer = asked(concepts, draws=4)
    report = Faithfulness(draws=4).run(concepts.subject, concepts.study.book, FRAME, Corpus((TEXT,), None))
    random = report.controls["random direction"]
    assert answer.concept.change == pytest.approx(report.concept.change.mean, abs=1e-6)
    assert answer.random.change == pytest.approx(random.change.mean, abs=1e-6)
    assert answer.random.flipped == pytest.approx(random.flipped.mean)
    assert answer.concept.removed == pytest.approx(report.concept.removed, rel=1e-4)
    assert answer.random.removed == pytest.approx(answer.concept.removed, rel=1e-4)
    assert sum(answer.random.shares.values()) == pytest.approx(1)


def test_a_text_is_read_once(concepts: LiveConcepts) -> None:
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    session = ConceptSession(concepts.subject, concepts.study, steps=4)
    handle = concepts.subject.model.register_forward_pre_hook(count)
    try:
        session.answer(ConceptQuestion(text=TEXT))
        read, passes = passes, 0
        session.answer(ConceptQuestion(text=TEXT, code=1, draws=2))
        assert (read > 4, passes) == (True, 1 + 1 + 2)  # states, the concept, two random directions
    finally:
        handle.remove()


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"text": "  "}, "the text is empty", "type one"),
    ({"code": 12}, "there is no concept 12", "0 to 11"),
    ({"code": -1}, "there is no concept -1", "0 to 11"),
]


@pytest.mark.parametrize(("changes", "said", "cure"), REFUSED)
def test_it_refuses_what_makes_no_sense(concepts: LiveConcepts, changes: dict[str, Any], said: str, cure: str) -> None:
    with pytest.raises(SubcircuitError) as refused:
        asked(concepts, **changes)
    assert said in refused.value.message and cure in refused.value.cure


def test_another_model_is_refused_at_the_start(concepts: LiveConcepts) -> None:
    other = Subject(tiny("gpt2").model, concepts.subject.tokenizer, name="another")
    with pytest.raises(DataError, match="the codebook is of"):
        ConceptSession(other, concepts.study)


def test_it_stops_at_the_next_layer(concepts: LiveConcepts) -> None:
    looks: list[int] = []

    def stopped() -> bool:
        looks.append(1)
        return len(looks) > 5

    with pytest.raises(Interrupted):
        concepts.session.answer(ConceptQuestion(text="z y x"), stopped)
    assert len(looks) == 6
    assert asked(concepts, text="z y x").probability > 0.5


def test_examples_are_whole_texts(concepts: LiveConcepts) -> None:
    assert len(concepts.session.examples) == 24 and not any("…" in text for text in concepts.session.examples)
