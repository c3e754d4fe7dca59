"""Induction: a stretch of random words begins again, "... red fish door ... red fish" -> " door".

Olsson et al. 2022, arXiv 2209.11895. The words are common ones where the tokenizer has enough of them as single tokens,
else tokens of its own vocabulary, so that the task also suits tiny vocabularies.
"""

from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Annotated

from subcircuit.errors import UsageError
from subcircuit.tasks._base import Row, Split
from subcircuit.tasks._fillers import Arrangements, Pool, words
from subcircuit.tasks._reading import Reading
from subcircuit.tasks._templated import Space, Templated, choose

__all__ = ["Induction"]

LONGEST = 8  # more would number more prompts than an index can
MOST = 100  # words taken from a vocabulary
WORDS = words(
    "words",
    """
    red fish door green stone water paper house light night table chair river cloud glass bread metal horse music
    garden winter summer number letter window street mother father doctor market planet animal bridge flower forest
    island camera pocket silver orange yellow purple coffee dinner school church office city road tree bird moon star
    ball book ship king queen game road sand snow rain wind fire gold salt milk meat rice corn leaf root seed hand foot
    head hair skin bone wall roof floor gate rope wheel knife spoon plate train plane truck phone radio movie story poem
    """,
)


@dataclass(frozen=True)
class Induction(Templated):
    """The word that followed this one before."""

    length: Annotated[int, "words in the stretch that is repeated, 3 to 8"] = 6
    corruption: Annotated[str, "answer (another word followed: the answer flips) or cue (another stood before)"] = (
        "answer"
    )

    pools = (WORDS,)

    def __post_init__(self) -> None:
        choose("corruption", self.corruption, ("answer", "cue"))
        if not 3 <= self.length <= LONGEST:
            raise UsageError(f"length is {self.length}", f"give 3 to {LONGEST}")

    def space(self, reading: Reading, split: Split) -> Space:
        """The words of the stretch, and how many of them come again before the answer."""
        vocabulary = self._words(reading, split)

        def write(rng: Random, stretch: tuple[str, ...], again: int) -> Row:
            cue, answer = again - 1, again
            new = rng.choice([word for word in vocabulary if word not in stretch])
            flip = self.corruption == "answer"
            changed = list(stretch)
            changed[answer if flip else cue] = new
            wrong = new if flip else rng.choice([word for word in stretch if word not in stretch[cue : answer + 1]])
            clean, corrupt = (" ".join([*first, *stretch[:again]]) for first in (stretch, changed))
            return Row(clean, corrupt, (f" {stretch[answer]}",), (f" {wrong}",))

        return Space((Arrangements(vocabulary, self.length), range(2, self.length)), write)

    def _words(self, reading: Reading, split: Split) -> list[str]:
        """Common words, or if they are too few, the vocabulary's."""
        least = self.length + 1
        kept = [word for word in WORDS.share(split) if reading.single(word)]
        return kept if len(kept) >= least else _vocabulary(reading).kept(reading, split, least=least)


def _vocabulary(reading: Reading) -> Pool[str]:
    known = (token.lstrip("\u0120\u2581") for token in sorted(reading.tokenizer.get_vocab()))
    plain = dict.fromkeys(word for word in known if word.isascii() and word.isalnum())
    single = islice((word for word in plain if reading.single(word)), MOST)
    return Pool("vocabulary words", tuple(single), lambda word: (word,))
