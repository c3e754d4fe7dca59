"""Does an answer rest on its concept? The concept is removed at its layer in the model itself, which runs on.

Each text has the concept of its most salient word. What the removal does to the answer stands beside what the removal
of other directions does, which by default takes out as much: directions at random, other codes at random, the concept
of a text with another answer, the mean of all states, the difference between class means, the concept of a rival
codebook.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from subcircuit.concepts.codebook import Codebook
from subcircuit.concepts.directions import (
    RANDOM,
    Directions,
    control_directions,
    random_directions,
    rival_directions,
)
from subcircuit.concepts.effects import Effect, FaithfulnessReport, SeedEffect, TextEffect, Where
from subcircuit.concepts.exchange import exchanged
from subcircuit.concepts.framing import Frame
from subcircuit.concepts.probing import Probe
from subcircuit.concepts.reading import Reading, read_texts
from subcircuit.concepts.texts import Corpus
from subcircuit.concepts.trials import CONCEPT, Outcome, Trials
from subcircuit.errors import DataError, UnknownName, UsageError
from subcircuit.evaluation.intervals import average
from subcircuit.progress import Progress, silent
from subcircuit.scores import Estimate
from subcircuit.subject import Subject

__all__ = ["Faithfulness", "gold_labels"]


@dataclass(frozen=True)
class Faithfulness:
    """The settings of the measurement."""

    where: Annotated[Where, "text: from the text to the judged token; salient: that word; judged: that token"] = "text"
    centred: Annotated[bool, "take the mean off first"] = True
    matched: Annotated[bool, "controls take out as much as the concept does"] = True
    steps: Annotated[int, "of integrated gradients"] = 16
    draws: Annotated[int, "of each random control, averaged"] = 3
    batch: Annotated[int, "texts in a pass"] = 16
    seed: Annotated[int, "of random controls and intervals"] = 0

    def read(
        self, subject: Subject, book: Codebook, frame: Frame, corpus: Corpus, *, progress: Progress = silent
    ) -> Reading:
        """What the model answers and rests it on; it serves all codebooks of the same states."""
        gold_labels(frame, corpus)
        return read_texts(subject, book, frame, corpus.texts, steps=self.steps, batch=self.batch, progress=progress)

    def run(
        self,
        subject: Subject,
        book: Codebook,
        frame: Frame,
        corpus: Corpus,
        *,
        rival: Codebook | None = None,
        reading: Reading | None = None,
        progress: Progress = silent,
    ) -> FaithfulnessReport:
        """Raises UsageError without label words, DataError for labels that have none, UnknownName."""
        if self.where not in get_args(Where):
            raise UnknownName("place", self.where, get_args(Where))
        gold = gold_labels(frame, corpus)
        reading = (reading or self.read(subject, book, frame, corpus, progress=progress)).coded(book)
        directions, absent = _directions(self, book, frame, reading, rival)
        trials = Trials(subject, book, reading, gold, self.where, self.centred, self.matched, self.batch)
        found = trials.run(directions, progress=progress)
        probe = None if gold is None else Probe.of(trials.whole(), gold, self.seed)
        effects = {name: _effect(each, self.seed, frame, found[CONCEPT], probe) for name, each in found.items()}
        patched = exchanged(subject, book, reading, batch=self.batch, seed=self.seed)
        unassigned = reading.at_salient(reading.distances) > book.threshold
        return FaithfulnessReport(
            method=book.about.method,
            layer=book.about.layer,
            texts=len(corpus),
            where=self.where,
            centred=self.centred,
            matched=self.matched,
            accuracy=None if gold is None else average((reading.said == gold).float(), self.seed),
            concepts=len(reading.concepts.unique()),
            unassigned=float(unassigned.float().mean()),
            concept=effects.pop(CONCEPT),
            controls=effects,
            probe=average(probe.once(probe.whole), self.seed) if probe else None,
            exchange={name: _sure(average(each, self.seed)) for name, each in patched.items()},
            absent=absent,
            rows=_rows(frame, corpus, reading, found[CONCEPT]),
        )

    def across(
        self,
        subject: Subject,
        books: Mapping[int, Codebook],
        reading: Reading,
        *,
        progress: Progress = silent,
    ) -> list[SeedEffect]:
        """The concepts of codebooks of other seeds, beside random directions; `reading` is of the same states."""
        found = []
        for seed, book in books.items():
            own = reading.coded(book)
            directions = {CONCEPT: [book.direction(own.concepts, centred=self.centred)]}
            directions |= {RANDOM: random_directions(book, len(own.said), self.draws, seed)}
            trials = Trials(subject, book, own, None, self.where, self.centred, self.matched, self.batch)
            after = trials.run(directions, progress=progress)
            change, rest = after[CONCEPT].change, after[RANDOM].change
            ahead = _sure(average(change - rest, self.seed))
            found.append(SeedEffect(seed=seed, change=_sure(average(change, self.seed)), ahead=ahead))
        return found


def gold_labels(frame: Frame, corpus: Corpus) -> Int[Tensor, " text"] | None:
    """The number of each text's label; None where texts have none. Raises UsageError, DataError."""
    if len(frame.labels) < 2:
        raise UsageError("the codebook was fitted without label words, so there are no answers", "fit with --label")
    if corpus.labels is None:
        return None
    names = list(frame.labels)
    strange = sorted(set(corpus.labels) - set(names))
    if strange:
        raise DataError(f"the texts have the label '{strange[0]}'; words are given for {names}", "give it a word")
    return torch.tensor([names.index(label) for label in corpus.labels])


def _directions(
    settings: Faithfulness, book: Codebook, frame: Frame, reading: Reading, rival: Codebook | None
) -> tuple[Directions, dict[str, str]]:
    found = {CONCEPT: [book.direction(reading.concepts, centred=settings.centred)]}
    controls, absent = control_directions(
        book, frame, reading, centred=settings.centred, draws=settings.draws, seed=settings.seed
    )
    found |= controls
    if rival is not None:
        found[f"{rival.about.method}'s concept"] = [rival_directions(book, rival, reading, centred=settings.centred)]
    return found, absent


def _rows(frame: Frame, corpus: Corpus, reading: Reading, concept: Outcome) -> list[TextEffect]:
    labels, salient, codes = list(frame.labels), reading.salient.tolist(), reading.concepts.tolist()
    return [
        TextEffect(
            text=text,
            label=corpus.labels[row] if corpus.labels else "",
            answer=labels[int(reading.said[row])],
            word=reading.framed.words[row][salient[row]].text,
            code=codes[row],
            before=float(reading.chance[row]),
            after=float(concept.after[row]),
            flipped=bool(concept.flipped[row]),
        )
        for row, text in enumerate(corpus.texts)
    ]


def _effect(found: Outcome, seed: int, frame: Frame, concept: Outcome, probe: Probe | None) -> Effect:
    accuracy = None if found.right is None else average(found.right, seed)
    binary = accuracy is not None and len(frame.labels) == 2
    return Effect(
        change=_sure(average(found.change, seed)),
        flipped=_sure(average(found.flipped, seed)),
        accuracy=accuracy,
        either=max(accuracy.mean, 1 - accuracy.mean) if accuracy is not None and binary else None,
        removed=float(found.removed.mean()),
        ahead=None if found is concept else average(concept.change - found.change, seed),
        probe=average(probe.once(found.pooled), seed) if probe else None,
        retrained=average(probe.anew(found.pooled), seed) if probe else None,
    )


def _sure(estimate: Estimate | None) -> Estimate:
    assert estimate is not None  # probabilities are finite
    return estimate
