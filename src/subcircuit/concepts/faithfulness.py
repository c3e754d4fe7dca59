"""Does an answer rest on its concept? The concept is removed at its layer in the model itself, which runs on.

Each text has the concept of its most salient word. What the removal does to the answer stands beside what the removal
of other directions does, which by default takes out as much: directions at random, other codes at random, the concept
of a text with another answer, the mean of all states, the difference between class means, the concept of a rival
codebook.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from subcircuit.batching import batched
from subcircuit.concepts.codebook import Codebook
from subcircuit.concepts.directions import Directions, control_directions, rival_directions
from subcircuit.concepts.framing import Frame
from subcircuit.concepts.reading import Reading, probability, read_texts
from subcircuit.concepts.removal import Removal, energy
from subcircuit.concepts.texts import Corpus
from subcircuit.errors import DataError, UnknownName, UsageError
from subcircuit.evaluation.intervals import average
from subcircuit.progress import Progress, silent
from subcircuit.scores import Estimate
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject

__all__ = ["Effect", "Faithfulness", "FaithfulnessReport", "Where"]

Where = Literal["text", "salient", "judged"]
CONCEPT = "concept"


class Effect(BaseModel):
    """What the removal of one kind of direction does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    change: Estimate = Field(description="|P(answer) before - after|, the answer being the whole model's")
    flipped: Estimate = Field(description="share of texts whose answer is another one")
    accuracy: Estimate | None = Field(description="by the texts' labels; null where they have none")
    either: float | None = Field(description="of two labels: max(accuracy, 1 - accuracy); 0.5 = nothing is left")
    removed: float = Field(description="squared length of what is taken out, over that of the centred states, mean")
    ahead: Estimate | None = Field(default=None, description="of a control: the concept's change less this one's")


class FaithfulnessReport(BaseModel):
    """The concept beside its controls."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    layer: int
    texts: int
    where: Where
    centred: bool
    matched: bool
    accuracy: Estimate | None = Field(description="of the whole model")
    concepts: int = Field(description="different concepts that salient words have")
    unassigned: float = Field(description="share of salient words beyond the codebook's threshold")
    concept: Effect
    controls: dict[str, Effect]
    absent: dict[str, str] = Field(description="controls that cannot be had here, and why")


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

    def run(
        self,
        subject: Subject,
        book: Codebook,
        frame: Frame,
        corpus: Corpus,
        *,
        rival: Codebook | None = None,
        progress: Progress = silent,
    ) -> FaithfulnessReport:
        """Raises UsageError without label words, DataError for labels that have none, UnknownName."""
        if self.where not in get_args(Where):
            raise UnknownName("place", self.where, get_args(Where))
        gold = _gold(frame, corpus)
        reading = read_texts(subject, book, frame, corpus.texts, steps=self.steps, batch=self.batch, progress=progress)
        directions, absent = _directions(self, subject, book, frame, reading, rival)
        found = _Runs(self, subject, book, reading, gold).all(directions, progress)
        concept = found[CONCEPT]
        unassigned = _at_salient(reading, reading.distances) > book.threshold
        right = None if gold is None else average((reading.said == gold).float(), self.seed)
        controls = {name: _effect(each, self.seed, frame, concept) for name, each in found.items() if name != CONCEPT}
        return FaithfulnessReport(
            method=book.about.method,
            layer=book.about.layer,
            texts=len(corpus),
            where=self.where,
            centred=self.centred,
            matched=self.matched,
            accuracy=right,
            concepts=len(reading.concepts.unique()),
            unassigned=float(unassigned.float().mean()),
            concept=_effect(concept, self.seed, frame),
            controls=controls,
            absent=absent,
        )


def _directions(
    settings: Faithfulness, subject: Subject, book: Codebook, frame: Frame, reading: Reading, rival: Codebook | None
) -> tuple[Directions, dict[str, str]]:
    found = {CONCEPT: [book.direction(reading.concepts, centred=settings.centred)]}
    controls, absent = control_directions(
        book, frame, reading, centred=settings.centred, draws=settings.draws, seed=settings.seed
    )
    found |= controls
    if rival is not None:
        mine = rival_directions(subject, book, rival, reading, centred=settings.centred, batch=settings.batch)
        found[f"{rival.about.method}'s concept"] = [mine]
    return found, absent


@dataclass(frozen=True)
class _Found:
    """One number a text."""

    change: Float[Tensor, " text"]
    flipped: Float[Tensor, " text"]
    right: Float[Tensor, " text"] | None
    removed: Float[Tensor, " text"]


@dataclass(frozen=True)
class _Runs:
    settings: Faithfulness
    subject: Subject
    book: Codebook
    reading: Reading
    gold: Int[Tensor, " text"] | None

    def all(self, directions: Directions, progress: Progress) -> dict[str, _Found]:
        """Every kind of direction removed, its draws averaged."""
        n, done = len(self.reading.said), 0
        chance = {name: torch.zeros(len(draws), n) for name, draws in directions.items()}
        said = {name: torch.zeros(len(draws), n, dtype=torch.long) for name, draws in directions.items()}
        taken = {name: torch.zeros(len(draws), n) for name, draws in directions.items()}
        lengths = self.reading.framed.prompts.lengths

        def run(rows: Tensor) -> None:
            nonlocal done
            removals = self._removals(rows, directions)
            for (name, draw), (removal, share) in removals.items():
                after, answer = self._answers(rows, removal)
                chance[name][draw, rows], said[name][draw, rows], taken[name][draw, rows] = after, answer, share
            done += len(rows)
            progress("remove", done, n)

        with torch.no_grad():
            batched(run, lengths, self.settings.batch)
        return {
            name: _Found(
                (chance[name] - self.reading.chance).abs().mean(0),
                (said[name] != self.reading.said).float().mean(0),
                None if self.gold is None else (said[name] == self.gold).float().mean(0),
                taken[name].mean(0),
            )
            for name in directions
        }

    def _removals(self, rows: Tensor, directions: Directions) -> dict[tuple[str, int], tuple[Removal, Tensor]]:
        """The removal of each draw, with the share of the states' energy that it takes."""
        site = Site(self.book.about.layer, Kind.RESID)
        some = self.reading.framed.rows(rows)
        states = self.subject.record(some.prompts, [site])[1][site][:, :, 0].float().cpu()
        where = self._where(rows)
        mean = self.book.mean if self.settings.centred else torch.zeros_like(self.book.mean)
        whole = ((states.double() - self.book.mean.double()).square().sum(-1) * where).sum(1)
        aim = energy(states, directions[CONCEPT][0][rows], where, mean)
        found = {}
        for name, draws in directions.items():
            for draw, every in enumerate(draws):
                own = energy(states, every[rows], where, mean)
                matched = self.settings.matched and name != CONCEPT
                gains = (aim / own.clamp(min=1e-20)).sqrt() if matched else torch.ones_like(own)
                share = own * gains.square() / whole
                found[name, draw] = Removal(every[rows], where, mean, gains.float()), share.float()
        return found

    def _where(self, rows: Tensor) -> Bool[Tensor, "prompt pos"]:
        some, where = self.reading.framed.rows(rows), torch.zeros(0)
        prompts, places = some.prompts, torch.arange(some.prompts.ids.shape[1])
        if self.settings.where == "judged":
            return places == prompts.at[:, None]
        if self.settings.where == "text":
            first = torch.tensor([words[0].first for words in some.words])
            return (places >= first[:, None]) & (places <= prompts.at[:, None]) | some.own
        where = torch.zeros_like(some.own)
        for row, (words, word) in enumerate(zip(some.words, self.reading.salient[rows].tolist(), strict=True)):
            where[row, words[word].first : words[word].last + 1] = True
        return where

    def _answers(self, rows: Tensor, removal: Removal) -> tuple[Tensor, Tensor]:
        """The probability of what was said before, and what is said now."""
        with removal.at(self.subject, self.book.about.layer):
            logits = self.subject.logits(self.reading.framed.prompts[rows])
        answers, said = self.reading.answers, self.reading.said[rows]
        now = logits[:, answers.to(logits.device)].argmax(-1)
        return probability(logits, answers, said).cpu(), now.cpu()


def _gold(frame: Frame, corpus: Corpus) -> Int[Tensor, " text"] | None:
    if len(frame.labels) < 2:
        raise UsageError("the codebook was fitted without label words, so there are no answers", "fit with --label")
    if corpus.labels is None:
        return None
    names = list(frame.labels)
    strange = sorted(set(corpus.labels) - set(names))
    if strange:
        raise DataError(f"the texts have the label '{strange[0]}'; words are given for {names}", "give it a word")
    return torch.tensor([names.index(label) for label in corpus.labels])


def _at_salient(reading: Reading, values: list[Tensor]) -> Tensor:
    return torch.stack([each[word] for each, word in zip(values, reading.salient.tolist(), strict=True)])


def _effect(found: _Found, seed: int, frame: Frame, concept: _Found | None = None) -> Effect:
    accuracy = None if found.right is None else average(found.right, seed)
    binary = accuracy is not None and len(frame.labels) == 2
    return Effect(
        change=_sure(average(found.change, seed)),
        flipped=_sure(average(found.flipped, seed)),
        accuracy=accuracy,
        either=max(accuracy.mean, 1 - accuracy.mean) if accuracy is not None and binary else None,
        removed=float(found.removed.mean()),
        ahead=None if concept is None else average(concept.change - found.change, seed),
    )


def _sure(estimate: Estimate | None) -> Estimate:
    assert estimate is not None  # probabilities are finite
    return estimate
