"""One model that answers questions about the concepts of its states: what it says to a text, and what without one.

All of it is the measurement of `concepts score` on a single text. What it takes to read a text is kept, so that another
concept of the same text costs a pass, and a pass for each draw of the control.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.concepts.directions import RANDOM, random_directions
from subcircuit.concepts.framing import label_probabilities
from subcircuit.concepts.reading import Reading, probability, read_texts, require_same
from subcircuit.concepts.study import Study
from subcircuit.concepts.trials import CONCEPT, Trials
from subcircuit.errors import DataError, UsageError
from subcircuit.subject import Subject
from subcircuit.view.concept_questions import PLACES, ConceptAbout, ConceptAnswer, ConceptQuestion, ReadWord, Without
from subcircuit.view.judging import likeliest
from subcircuit.view.stopping import stopping

__all__ = ["ConceptSession"]

EXAMPLES = 24  # texts that are offered
KEPT = 8  # texts whose reading is kept
SEED = 0  # of random directions: as many of them as are asked for, and the same ones each time
ONLY = torch.tensor([0])  # the row of the text
Logits = Float[Tensor, "1 vocab"]


@dataclass(frozen=True)
class _Read:
    """A text, with what stays the same whatever is taken out."""

    reading: Reading
    full: Logits


class ConceptSession:
    """A model and a codebook of its states. Raises DataError for a codebook of another model.

    Args:
        texts: offered as examples, before those of the codebook.
        steps: of the integrated gradients that find the salient words.
    """

    def __init__(self, subject: Subject, study: Study, texts: Sequence[str] = (), *, steps: int = 16) -> None:
        require_same(subject, study.book)
        self.subject, self.study, self.steps = subject, study, steps
        self.examples = list(dict.fromkeys([*texts, *_whole(study)]))[:EXAMPLES]
        self._read: OrderedDict[str, _Read] = OrderedDict()

    @property
    def about(self) -> ConceptAbout:
        """What a page needs to know before it asks."""
        frame = self.study.catalogue.frame
        return ConceptAbout(
            model=self.subject.name,
            places=PLACES,
            examples=self.examples,
            template=frame.template,
            longest=frame.tokens,
        )

    def answer(self, question: ConceptQuestion, stopped: Callable[[], bool] = lambda: False) -> ConceptAnswer:
        """Read the text, and run the model without the concept and without random directions.

        Raises DataError for a text without a token, UsageError for a concept that there is not, Interrupted as soon as
        `stopped` says so, after at most one layer.
        """
        begun, codes = time.perf_counter(), len(self.study.book)
        if question.code is not None and not 0 <= question.code < codes:
            raise UsageError(f"there is no concept {question.code}", f"the codebook has 0 to {codes - 1}")
        with stopping(self.subject, stopped):
            text = self._text(question.text)
            code = int(text.reading.concepts) if question.code is None else question.code
            found = self._without(text.reading, code, question)
        return self._answer(question, text, code, found, begun)

    def _text(self, text: str) -> _Read:
        if not text.strip():
            raise DataError("the text is empty", "type one, or take an example")
        if text not in self._read:
            frame = self.study.catalogue.frame
            reading = read_texts(self.subject, self.study.book, frame, [text], steps=self.steps)
            with torch.no_grad():
                self._read[text] = _Read(reading, self.subject.logits(reading.framed.prompts))
            if len(self._read) > KEPT:
                self._read.popitem(last=False)
        self._read.move_to_end(text)
        return self._read[text]

    @torch.no_grad()
    def _without(
        self, reading: Reading, code: int, question: ConceptQuestion
    ) -> dict[str, list[tuple[Logits, Float[Tensor, ""]]]]:
        """Of each kind of direction its draws: what the model then says, and the share of energy that is taken."""
        book = self.study.book
        directions = {CONCEPT: [book.direction(code)[None]]}
        directions |= {RANDOM: random_directions(book, 1, question.draws, SEED)}
        trials = Trials(self.subject, book, reading, None, question.where, centred=True, matched=True, batch=1)
        found: dict[str, list[tuple[Logits, Float[Tensor, ""]]]] = {name: [] for name in directions}
        for (name, _), (removal, share) in trials.removals(ONLY, trials.states(ONLY), directions).items():
            found[name].append((trials.logits(ONLY, removal), share[0]))
        return found

    def _answer(
        self,
        question: ConceptQuestion,
        text: _Read,
        code: int,
        found: dict[str, list[tuple[Logits, Float[Tensor, ""]]]],
        begun: float,
    ) -> ConceptAnswer:
        reading, logits = text.reading, found[CONCEPT][0][0]
        return ConceptAnswer(
            answer=self._said(int(reading.said)),
            probability=float(reading.chance),
            shares=self._shares(reading, text.full),
            words=self._words(reading),
            salient=int(reading.salient),
            code=code,
            now=self._said(self._best(reading, logits)),
            concept=self._told(reading, found[CONCEPT]),
            random=self._told(reading, found[RANDOM]),
            top=likeliest(self.subject, logits, logits, text.full, question.top),
            milliseconds=1000 * (time.perf_counter() - begun),
        )

    def _words(self, reading: Reading) -> list[ReadWord]:
        scores, codes, distances = (each[0].tolist() for each in (reading.scores, reading.codes, reading.distances))
        return [
            ReadWord(word=word.text, score=score, code=code, distance=away, assigned=away <= self.study.book.threshold)
            for word, score, code, away in zip(reading.framed.words[0], scores, codes, distances, strict=True)
        ]

    def _told(self, reading: Reading, draws: Sequence[tuple[Logits, Float[Tensor, ""]]]) -> Without:
        chances = torch.cat([probability(logits, reading.answers, reading.said).cpu() for logits, _ in draws])
        shares = [self._shares(reading, logits) for logits, _ in draws]
        flipped = [self._best(reading, logits) != int(reading.said) for logits, _ in draws]
        return Without(
            probability=float(chances.mean()),
            change=float((chances - reading.chance).abs().mean()),
            flipped=sum(flipped) / len(draws),
            removed=float(torch.stack([share for _, share in draws]).mean()),
            shares={label: sum(each[label] for each in shares) / len(draws) for label in shares[0]},
        )

    def _shares(self, reading: Reading, logits: Logits) -> dict[str, float]:
        labels = list(self.study.catalogue.frame.labels)
        return dict(zip(labels, label_probabilities(logits, reading.answers)[0].tolist(), strict=True))

    def _best(self, reading: Reading, logits: Logits) -> int:
        """The number of the label, or the token where there are no labels."""
        answers = reading.answers.to(logits.device)
        return int((logits[:, answers] if len(answers) else logits).argmax(-1))

    def _said(self, number: int) -> str:
        labels = list(self.study.catalogue.frame.labels)
        return labels[number] if labels else str(self.subject.tokenizer.decode([number]))


def _whole(study: Study) -> list[str]:
    """Examples of the codebook's concepts that are not cut."""
    found = [example for concept in study.catalogue.concepts for example in concept.examples[:1] if example.word]
    texts = [f"{each.before}{each.word}{each.after}" for each in found]
    return [text for text in texts if not text.startswith("…") and not text.endswith("…")]
