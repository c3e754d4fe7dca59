"""What codes stand for: the words that come to each, where they stand, and the labels of their texts."""

import math
from collections import Counter
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from subcircuit.concepts.framing import Frame
from subcircuit.concepts.index import SENTENCE
from subcircuit.concepts.states import States
from subcircuit.files import load_record, save_record

__all__ = ["Catalogue", "Concept", "Example", "catalogued", "class_means"]

WORDS, NAME, EXAMPLES, SENTENCES = 10, 3, 12, 5  # of a concept
AROUND = 60  # characters on either side of a word
FILE = "concepts.json"


class Example(BaseModel):
    """A state in its text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: int = Field(description="its number among the texts that were harvested")
    position: int = Field(description="token position in the prompt")
    before: str
    word: str = Field(description="empty where the state is that of the judged token")
    after: str
    label: str = Field(default="", description="of the text; empty where texts have none")

    def __str__(self) -> str:
        return f"{self.before}[{self.word}]{self.after}" if self.word else self.after


class Concept(BaseModel):
    """One code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: int
    size: int = Field(description="states of the harvest that it is nearest to")
    words: dict[str, int] = Field(description="its most frequent words, with their counts")
    name: list[str] = Field(description="its most characteristic words: frequent here, and rarer elsewhere")
    examples: list[Example] = Field(description="some of its states, each of another text")
    labels: dict[str, float] = Field(description="share of its states in texts of each label")

    @property
    def sentences(self) -> list[str]:
        """Some of the examples, the word in brackets."""
        return [str(self.examples[at]) for at in _spread(len(self.examples), SENTENCES)]

    @property
    def label(self) -> str:
        """The label that most of its states are from; empty where texts have none."""
        return max(self.labels, key=self.labels.__getitem__) if self.labels else ""


class Catalogue(BaseModel):
    """`concepts.json`."""

    model_config = ConfigDict(extra="forbid")

    frame: Frame
    concepts: list[Concept]

    def save(self, folder: Path) -> None:
        """Raises ResourceError."""
        save_record(self, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises DataError."""
        cure = "fit the codebook again"
        return load_record(cls, folder / FILE, "a list of concepts", missing=cure, broken=cure)


def catalogued(states: States, assigned: Int[Tensor, " row"], codes: int, rows: np.ndarray) -> Catalogue:
    """The concepts of `rows` of a harvest, each with its code."""
    order = np.argsort(assigned.numpy(), kind="stable")
    bounds = np.searchsorted(assigned.numpy()[order], np.arange(codes + 1))
    every = Counter(_words(states, rows))
    concepts = [_concept(states, code, rows[order[bounds[code] : bounds[code + 1]]], every) for code in range(codes)]
    return Catalogue(frame=states.record.frame, concepts=concepts)


def class_means(states: States, layer: int) -> Float[Tensor, "label width"] | None:
    """The mean state of the texts of each label, labels sorted; None where texts, or the words kept, lack one."""
    labels = states.record.labels
    if labels is None or states.corpus.labels is None:
        return None
    vectors = states.vectors(layer)
    numbers = torch.tensor([labels.index(label) for label in states.corpus.labels])[torch.from_numpy(vectors.texts)]
    sums = torch.zeros(len(labels), vectors.width, dtype=torch.float64)
    start = 0
    for block in vectors.blocks():
        sums.index_add_(0, numbers[start : start + len(block)], block.double())
        start += len(block)
    counts = torch.bincount(numbers, minlength=len(labels))
    return (sums / counts[:, None]).float() if bool(counts.all()) else None


def _concept(states: States, code: int, rows: np.ndarray, every: Counter[str]) -> Concept:
    index, corpus = states.index, states.corpus
    words = Counter(_words(states, rows))
    labels: dict[str, float] = {}
    if corpus.labels is not None:
        counts = Counter(corpus.labels[text] for text in index.text[rows])
        labels = {label: counts[label] / len(rows) for label in states.record.labels or []}
    _, first = np.unique(index.text[rows], return_index=True)
    return Concept(
        code=code,
        size=len(rows),
        words=dict(words.most_common(WORDS)),
        name=characteristic(words, every)[:NAME],
        examples=[_example(states, int(rows[first[at]])) for at in _spread(len(first), EXAMPLES)],
        labels=labels,
    )


def characteristic(words: Counter[str], every: Counter[str]) -> list[str]:
    """By what each adds to KL(words here || words everywhere): p log(p / q), the largest first."""
    here, all_ = words.total(), every.total()
    gain = {word: n / here * math.log(n / here * all_ / every[word]) for word, n in words.items()}
    return sorted(gain, key=lambda word: (-gain[word], word))


def _words(states: States, rows: np.ndarray) -> list[str]:
    """How the words of these rows are spelled; judged positions have none."""
    return [states.index.words[number] for number in states.index.word[rows] if number != SENTENCE]


def _spread(n: int, most: int) -> list[int]:
    """At most so many of n places, evenly."""
    return [int(at) for at in np.linspace(0, n - 1, min(most, n))]


def _example(states: States, row: int) -> Example:
    index, number = states.index, int(states.index.text[row])
    text, start, word = states.corpus.texts[number], int(index.start[row]), int(index.word[row])
    place = {"text": number, "position": int(index.position[row])}
    label = states.corpus.labels[number] if states.corpus.labels else ""
    if word == SENTENCE:
        return Example(**place, before="", word="", after=text[: 2 * AROUND], label=label)
    end = start + len(index.words[word])
    left, right = max(start - AROUND, 0), min(end + AROUND, len(text))
    before, after = "…" * (left > 0) + text[left:start], text[end:right] + "…" * (right < len(text))
    return Example(**place, before=before, word=text[start:end], after=after, label=label)
