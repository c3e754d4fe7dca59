"""Questions about concepts that tell no judge whose they are: ratings of an explanation, and words that intrude.

A rating shows a text, the model's answer and one codebook's concept of its most salient word. An intrusion shows five
words, four of a concept and one that none of its states has. Questions come in an order of their own, numbered through;
which codebook each is about stands in a key that is kept apart.
"""

import csv
import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from subcircuit.concepts.explaining import Explained
from subcircuit.concepts.study import Study
from subcircuit.errors import DataError, UsageError

__all__ = ["Key", "Question", "ask", "read_sheet", "write_sheet"]

SHOWN = 4  # words of a concept beside the intruder
Kind = Literal["rating", "intrusion"]
RATING = """A language model read a text and gave an answer. An analysis says that the answer rests on one word, and
that the model takes that word as an instance of a concept, given by its most frequent words and some uses.

Text: {text}
The model's answer: {answer}
The word: {word}
Words of the concept: {words}
Uses, the word in brackets:
{uses}

How well does the concept explain the answer? 1 = not at all, 2 = in part, 3 = well. Reply with the number alone."""
INTRUSION = """Four of these five words belong together and one does not:

{words}

Which one does not belong? Reply with its number alone."""


class Question(BaseModel):
    """What a judge sees."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    kind: Kind
    text: str
    choices: int = Field(description="the answer is a whole number from 1 to this")


class Key(BaseModel):
    """What a judge does not see."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    codebook: str
    item: int = Field(description="of ratings: the text, the same for all codebooks")
    right: int | None = Field(default=None, description="of intrusions: the intruder's number")


def ask(
    studies: dict[str, Study], explained: dict[str, Sequence[Explained]], *, intrusions: int, seed: int
) -> tuple[list[Question], list[Key]]:
    """All questions, shuffled, and their key. `explained` has the same texts for every codebook."""
    draw = random.Random(seed)
    made: list[tuple[Kind, str, int, Key]] = []
    for name, texts in explained.items():
        made += [("rating", _rating(each), 3, Key(number=0, codebook=name, item=i)) for i, each in enumerate(texts)]
    for name, study in studies.items():
        for item in range(intrusions):
            found = _intrusion(study, draw)
            if found is not None:
                key = Key(number=0, codebook=name, item=item, right=found[1])
                made.append(("intrusion", found[0], SHOWN + 1, key))
    draw.shuffle(made)
    questions = [Question(number=n, kind=kind, text=text, choices=c) for n, (kind, text, c, _) in enumerate(made, 1)]
    return questions, [key.model_copy(update={"number": n}) for n, (*_, key) in enumerate(made, 1)]


def write_sheet(path: Path, questions: Sequence[Question]) -> None:
    """For people: a CSV with a column to fill in."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["number", "question", "answer"])
        rows.writerows([question.number, question.text, ""] for question in questions)


def read_sheet(path: Path, questions: Sequence[Question]) -> list[int | None]:
    """A filled sheet's answers in the questions' order; None where left empty. Raises UsageError, DataError."""
    if not path.is_file():
        raise UsageError(f"{path} is not a file", "give a sheet that was filled in")
    choices = {question.number: question.choices for question in questions}
    given: dict[int, int] = {}
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8: {error}", "save the sheet as UTF-8") from error
    for row in rows:
        text, number = ((row.get(name) or "").strip() for name in ("answer", "number"))
        if not number.isdigit() or int(number) not in choices:
            raise DataError(f"{path.name} has a question '{number}', which is none of these", "use its own sheet")
        if text and not (text.isdigit() and 1 <= int(text) <= choices[int(number)]):
            raise DataError(
                f"question {number} of {path.name} is answered '{text}'", f"write 1 to {choices[int(number)]}"
            )
        if text:
            given[int(number)] = int(text)
    return [given.get(question.number) for question in questions]


def _rating(each: Explained) -> str:
    word = each.words[0]
    uses = "\n".join(f"- {sentence}" for sentence in word.sentences)
    return RATING.format(text=each.text, answer=each.answer, word=word.word, words=", ".join(word.words), uses=uses)


def _intrusion(study: Study, draw: random.Random) -> tuple[str, int] | None:
    """A concept's words and one of another's that it never has; None where no concept has as many."""
    concepts = [concept for concept in study.catalogue.concepts if len(concept.words) >= SHOWN]
    if len(concepts) < 2:
        return None
    concept, other = draw.sample(concepts, 2)
    strange = [word for word in other.words if word not in concept.words]
    if not strange:
        return None
    words = [*list(concept.words)[:SHOWN], strange[0]]
    draw.shuffle(words)
    listed = "\n".join(f"{number}. {word}" for number, word in enumerate(words, 1))
    return INTRUSION.format(words=listed), words.index(strange[0]) + 1
