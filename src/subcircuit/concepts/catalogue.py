"""What codes stand for: the words that come to each, where they stand, and the labels of their texts."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from subcircuit.concepts.framing import Frame
from subcircuit.concepts.states import States
from subcircuit.errors import DataError

__all__ = ["Catalogue", "Concept", "catalogued", "class_means"]

WORDS, SENTENCES, AROUND = 10, 5, 60  # of a concept; characters on either side of a word
FILE = "concepts.json"


class Concept(BaseModel):
    """One code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: int
    size: int = Field(description="states of the harvest that it is nearest to")
    words: dict[str, int] = Field(description="its most frequent words, with their counts")
    sentences: list[str] = Field(description="some of its states in their texts, the word in brackets")
    labels: dict[str, float] = Field(description="share of its states in texts of each label")

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
        (folder / FILE).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises DataError."""
        try:
            return cls.model_validate_json((folder / FILE).read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise DataError(f"{folder / FILE} cannot be read: {error}", "fit the codebook again") from error


def catalogued(states: States, assigned: Int[Tensor, " row"], codes: int, rows: np.ndarray) -> Catalogue:
    """The concepts of `rows` of a harvest, each with its code."""
    order = np.argsort(assigned.numpy(), kind="stable")
    bounds = np.searchsorted(assigned.numpy()[order], np.arange(codes + 1))
    concepts = [_concept(states, code, rows[order[bounds[code] : bounds[code + 1]]]) for code in range(codes)]
    return Catalogue(frame=states.record.frame, concepts=concepts)


def class_means(states: States, layer: int) -> Float[Tensor, "label width"] | None:
    """The mean state of the texts of each label, labels sorted; None where texts have none."""
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
    return (sums / torch.bincount(numbers, minlength=len(labels)).clamp(min=1)[:, None]).float()


def _concept(states: States, code: int, rows: np.ndarray) -> Concept:
    index, corpus = states.index, states.corpus
    spelled = [index.words[number] if number >= 0 else "" for number in index.word[rows]]
    labels: dict[str, float] = {}
    if corpus.labels is not None:
        counts = Counter(corpus.labels[text] for text in index.text[rows])
        labels = {label: counts[label] / len(rows) for label in states.record.labels or []}
    return Concept(
        code=code,
        size=len(rows),
        words=dict(Counter(word for word in spelled if word).most_common(WORDS)),
        sentences=_sentences(states, rows),
        labels=labels,
    )


def _sentences(states: States, rows: np.ndarray) -> list[str]:
    """Members of different texts, spread evenly over them."""
    _, first = np.unique(states.index.text[rows], return_index=True)
    apart: Sequence[int] = rows[first][np.linspace(0, len(first) - 1, min(SENTENCES, len(first))).astype(int)]
    return [_snippet(states, row) for row in apart]


def _snippet(states: States, row: int) -> str:
    index = states.index
    text: str = states.corpus.texts[index.text[row]]
    start, number = int(index.start[row]), int(index.word[row])
    if number < 0:
        return text[: 2 * AROUND]
    end = start + len(index.words[number])
    left, right = max(start - AROUND, 0), min(end + AROUND, len(text))
    begin, stop = "…" if left else "", "…" if right < len(text) else ""
    return f"{begin}{text[left:start]}[{text[start:end]}]{text[end:right]}{stop}"
