"""Which occurrences of each word are kept: so many of each, every one with the same chance (Vitter 1985, algorithm R).

Only the tokens decide, never the states, so the choice is made before the model runs: a harvest that goes on after a
stop chooses as before.
"""

import random
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from subcircuit.concepts.framing import Word
from subcircuit.concepts.index import SENTENCE, Index

__all__ = ["Reservoir"]


@dataclass
class Reservoir:
    """Takes texts one by one; `index()` says what is kept of them. `per_word` 0 keeps all."""

    per_word: int
    least: int = 1  # occurrences below which a word is left out
    seed: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    kept: dict[str, list[tuple[int, Word]]] = field(default_factory=dict)
    sentences: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def add(self, text: int, words: list[Word], at: int) -> None:
        """The words of a text, and its judged position."""
        self.sentences.append((text, at))
        for word in words:
            self.seen[word.text] += 1
            kept = self.kept.setdefault(word.text, [])
            if not self.per_word or len(kept) < self.per_word:
                kept.append((text, word))
                continue
            slot = self._random.randrange(self.seen[word.text])
            if slot < self.per_word:
                kept[slot] = (text, word)

    def index(self) -> Index:
        """The rows by text and position."""
        names = tuple(sorted(name for name in self.kept if self.seen[name] >= self.least))
        rows = [(t, w.place, w.start, w.last, n) for n, name in enumerate(names) for t, w in self.kept[name]]
        rows += [(text, SENTENCE, SENTENCE, at, SENTENCE) for text, at in self.sentences]
        rows.sort(key=lambda row: (row[0], row[3], row[4]))
        text, place, start, position, word = np.ascontiguousarray(np.array(rows, dtype=np.int64).reshape(-1, 5).T)
        return Index(text, place, start, position, word, names)
