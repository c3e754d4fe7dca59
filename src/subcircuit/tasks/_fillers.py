"""The words that go into templates, shared out over the splits so that no two splits have one in common."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import perm
from typing import Generic, TypeVar

from subcircuit.errors import DataError
from subcircuit.tasks._base import SPLITS, Split
from subcircuit.tasks._reading import Reading

__all__ = ["FEMALE", "MALE", "Arrangements", "Pool", "items", "words"]

# a turn of 7 shares no factor with the tens of years or with lists that alternate, so no split gets only one sort
TURN: tuple[Split, ...] = ("train", "train", "validation", "train", "test", "train", "test")

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pool(Generic[T]):
    """Fillers of one sort. An item belongs to the same split whatever the tokenizer."""

    name: str  # in the plural: "female names"
    items: tuple[T, ...]
    words: Callable[[T], Sequence[str]]  # those words of an item that have to be single tokens

    def share(self, split: Split) -> list[T]:
        """The items of a split."""
        return [item for i, item in enumerate(self.items) if TURN[i % len(TURN)] == split]

    def kept(self, reading: Reading, split: Split, least: int = 1) -> list[T]:
        """The items of a split whose words are single tokens. Raises DataError when there are fewer than `least`."""
        share = self.share(split)
        kept = self._single(reading, share)
        if len(kept) < least:
            found = ", ".join(map(str, kept)) or "none"
            raise DataError(
                f"{len(kept)} of the {len(share)} {self.name} of the {split} split are single tokens for this "
                f"tokenizer ({found}); {least} are needed",
                "choose another task, or write prompts for this tokenizer into a .jsonl file",
            )
        return kept

    def coverage(self, reading: Reading) -> tuple[int, int]:
        """How many items are kept, of how many, over all splits."""
        return sum(len(self._single(reading, self.share(split))) for split in SPLITS), len(self.items)

    def _single(self, reading: Reading, share: list[T]) -> list[T]:
        reading.read(f"{word}{f' {word}' * more}" for item in share for word in self.words(item) for more in (1, 2))
        return [item for item in share if all(reading.single(word) for word in self.words(item))]


class Arrangements(Generic[T]):
    """All ordered choices of `k` different items, by number; none is written out before it is asked for."""

    def __init__(self, items: Sequence[T], k: int) -> None:
        self.items, self.k = items, k

    def __len__(self) -> int:
        return perm(len(self.items), self.k)

    def __getitem__(self, number: int) -> tuple[T, ...]:
        rest, chosen = list(self.items), []
        for _ in range(self.k):
            number, place = divmod(number, len(rest))
            chosen.append(rest.pop(place))
        return tuple(chosen)


def words(name: str, text: str) -> Pool[str]:
    """A pool of the words of a text."""
    return Pool(name, tuple(dict.fromkeys(text.split())), lambda word: (word,))


def items(name: str, text: str) -> Pool[tuple[str, ...]]:
    """A pool of tuples, each written as words joined by slashes: "key/keys"."""
    return Pool(name, tuple(tuple(item.split("/")) for item in dict.fromkeys(text.split())), lambda item: item)


MALE = words(
    "male names",
    """
    Michael Matthew Joshua Daniel David James Robert John Joseph Andrew Ryan Brandon Jason Justin William Jonathan
    Brian Nicholas Anthony Eric Adam Kevin Steven Thomas Timothy Kyle Richard Jeffrey Jeremy Benjamin Mark Aaron
    Charles Jacob Stephen Patrick Sean Paul Tyler Scott Gregory Kenneth Bryan Peter Simon George Edward Henry Frank
    Carl Philip Martin Arthur Roger Dennis Jack Samuel Luke Nathan Alan Oliver Oscar Victor Evan Ethan Harry Walter
    Gary Larry Ben Tom Bob Bill Jim Tim Steve Mike Fred Ian Neil Jerry Terry
    """,
)
FEMALE = words(
    "female names",
    """
    Jessica Ashley Jennifer Sarah Stephanie Nicole Heather Elizabeth Megan Melissa Rachel Laura Lauren Amber Brittany
    Kimberly Amy Crystal Michelle Tiffany Emily Rebecca Erin Samantha Angela Andrea Mary Lisa Julia Anna Maria Emma
    Alice Jane Susan Karen Linda Barbara Margaret Helen Sandra Donna Carol Ruth Sharon Diana Julie Kate Katherine
    Catherine Christine Martha Judith Judy Janet Joan Nancy Betty Sophia Olivia Victoria Grace Claire Charlotte Ellen
    Rose Lucy Eva Sara Anne Ann Alicia Vanessa Natalie Hannah Lily Molly Sally Wendy Holly
    """,
)
