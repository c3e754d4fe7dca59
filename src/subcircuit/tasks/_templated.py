"""Built-in tasks: prompts written from templates and fillers, for any tokenizer.

A task describes the *space* of its prompts as axes (templates, names, ...); each choice of one value per axis is
another clean prompt. Pairs are drawn from the space without repetition and take the same road through the prompt doctor
as a user's file. Nothing is filtered by what a model gets right.
"""

import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from subcircuit.errors import DataError, UnknownName
from subcircuit.plugins import spell
from subcircuit.tasks._base import Pairs, Row, Split
from subcircuit.tasks._doctor import examine
from subcircuit.tasks._fillers import Pool
from subcircuit.tasks._pairs import to_pairs
from subcircuit.tasks._reading import Reading

__all__ = ["Space", "Templated", "choose"]

log = logging.getLogger(__name__)


class Axis(Protocol):
    """What one part of a prompt is chosen from."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> Any: ...


@dataclass(frozen=True)
class Space:
    """Every prompt of one split: `write(rng, *values)` makes the row of one value per axis.

    Different values must give different clean prompts; what else a row needs, such as names for its corrupted prompt,
    is drawn from `rng`.
    """

    axes: Sequence[Axis]
    write: Callable[..., Row]

    def __len__(self) -> int:
        return prod(map(len, self.axes))

    def row(self, number: int, rng: random.Random) -> Row:
        """The row of one choice, by its number."""
        values = []
        for axis in self.axes:
            number, place = divmod(number, len(axis))
            values.append(axis[place])
        return self.write(rng, *values)


class Templated(ABC):
    """The road that every built-in task takes: a task gives its `space` and the pools that depend on the tokenizer."""

    pools: Sequence[Pool[Any]] = ()  # fillers that have to be single tokens

    @property
    def name(self) -> str:
        """The key the task is found by: its file's name."""
        return spell(type(self).__module__.rpartition(".")[2])

    @abstractmethod
    def space(self, reading: Reading, split: Split) -> Space:
        """The prompts of a split. Raises DataError when too few fillers suit the tokenizer."""

    def coverage(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, tuple[int, int]]:
        """Of each sort of filler: how many are single tokens here, and how many there are."""
        reading = Reading(tokenizer)
        return {pool.name: pool.coverage(reading) for pool in self.pools}

    def rows(self, tokenizer: PreTrainedTokenizerBase, n: int, *, seed: int = 0, split: Split = "train") -> list[Row]:
        """`n` different rows of a split, as text. Raises DataError, naming how many there are, when there are fewer."""
        reading = Reading(tokenizer)
        space = self.space(reading, split)
        if n > len(space):
            raise DataError(
                f"{self.name} has {len(space)} different prompts in its {split} split for this tokenizer, not {n}",
                f"ask for at most {len(space)}",
            )
        rng = random.Random(f"{self.name}/{split}/{seed}")
        drawn = [space.row(number, rng) for number in rng.sample(range(len(space)), n)]
        return [
            replace(
                row,
                clean=reading.open(row.clean),
                corrupt=reading.open(row.corrupt),
                split=split,
                source=f"{split} row {number} of {self.name}",
            )
            for number, row in enumerate(drawn, start=1)
        ]

    def pairs(self, tokenizer: PreTrainedTokenizerBase, n: int, *, seed: int = 0, split: Split = "train") -> Pairs:
        """`n` pairs of one split. Same arguments, same pairs. Raises DataError when the tokenizer allows too few."""
        for sort, (kept, total) in self.coverage(tokenizer).items():
            log.info("%s: %d of %d %s are single tokens", self.name, kept, total, sort)
        report = examine(self.rows(tokenizer, n, seed=seed, split=split), tokenizer)
        report.require(self.name, "this tokenizer does not suit the task: choose another, or write a prompts file")
        return to_pairs(report.rows, tokenizer)


def choose(what: str, value: str, choices: Sequence[str]) -> None:
    """Refuse an option's value that is not one of its choices. Raises UnknownName with the nearest."""
    if value not in choices:
        raise UnknownName(what, value, choices)
