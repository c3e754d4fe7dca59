"""Short biographies of two occupations, with the gender of the person: what a classifier is debiased on.

Where occupation and gender go together (`confounded`: his biographies are a professor's, hers a nurse's), a classifier
may learn either; where they do not (`balanced`), it shows which. Biographies come from templates, in which neither
occupation is named, or from a Bias-in-Bios file (De-Arteaga et al. 2019) that the user has.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from subcircuit.errors import DataError, UsageError
from subcircuit.tasks._base import Split
from subcircuit.tasks._fillers import FEMALE, MALE

__all__ = ["COLUMNS", "GENDERED", "PROFESSIONS", "Biographies", "read_biographies", "write_biographies"]

PROFESSIONS = (21, 13)  # professor and nurse, as Bias-in-Bios counts them
COLUMNS = ("hard_text", "profession", "gender")  # of the text, of the profession's number, of 0 = he, 1 = she
PRONOUNS = (("he", "his", "him"), ("she", "her", "her"))
GENDERED = frozenset(word for pronouns in PRONOUNS for word in pronouns) | {*MALE.items, *FEMALE.items}
DOES: tuple[Mapping[Split, tuple[str, ...]], ...] = (
    {
        "train": (
            "gives a course on statistics",
            "writes papers on medieval trade",
            "leads a group on new materials",
            "talks about economic theory on Mondays",
            "reads the theses of young physicists",
            "finished a book on the theory of numbers",
            "won a grant for work on old languages",
            "studies how cities grow",
        ),
        "test": (
            "explains philosophy to large classes",
            "edits a journal of ancient history",
            "speaks at conferences on climate models",
            "marks exams in mathematics",
        ),
    },
    {
        "train": (
            "is on call at night",
            "checks blood pressure and gives out pills",
            "meets people on the worst day of their lives",
            "trained in intensive care",
            "helps others to walk again after surgery",
            "cleans wounds and changes bandages",
            "takes temperatures and fills in charts",
            "works shifts on a ward",
        ),
        "test": (
            "sits with the sick and the dying",
            "prepares injections in the morning",
            "calms people before an operation",
            "keeps an eye on heart monitors",
        ),
    },
)
LIFE = (  # told of either; some of it sounds like the other occupation
    "{name} grew up in {town}, and {he} still calls {his} parents there",
    "{He} lives in {town}, where {his} family has {his} back",
    "In {his} free time {he} likes to {hobby}, and {he} takes {his} dog along",
    "Friends of {name} say that {he} is {manner}, which {he} denies",
    "{He} took {his} first job in {town} when {he} was young",
    "Many people in {town} know {him} and {his} car",
    "{name} says that {he} owes {his} luck to {his} friends",
    "{He} broke {his} leg once, and the hospital in {town} treated {him}",
    "{He} met {his} best friend at the university of {town}",
    "When {he} was ill, {his} neighbours brought {him} books",
)
OPENING = "Biography:"  # whose first token, unlike all others to a model, tells nothing
TOWNS = ("Boston", "Denver", "Chicago", "Seattle", "London", "Madrid", "Dublin", "Sydney")
HOBBIES = ("read", "swim", "paint", "cook", "travel", "garden", "sing", "hike")
MANNERS = ("kind", "patient", "clever", "quiet", "funny", "honest", "calm", "modest")


@dataclass(frozen=True)
class Biographies:
    """Texts, whether each is of the second occupation, and whether it is hers."""

    texts: tuple[str, ...]
    label: Bool[Tensor, " text"]
    hers: Bool[Tensor, " text"]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, rows: Int[Tensor, " row"]) -> "Biographies":
        return Biographies(tuple(self.texts[row] for row in rows.tolist()), self.label[rows], self.hers[rows])

    @property
    def group(self) -> Int[Tensor, " text"]:
        """0 to 3: first occupation his, hers; second his, hers."""
        return 2 * self.label.long() + self.hers.long()

    def confounded(self, per_group: int, seed: int = 0) -> "Biographies":
        """His of the first occupation and hers of the second. Raises DataError where there are too few."""
        return self._drawn((0, 3), per_group, seed)

    def balanced(self, per_group: int, seed: int = 0) -> "Biographies":
        """Four groups of a size. Raises DataError where there are too few."""
        return self._drawn((0, 1, 2, 3), per_group, seed)

    def _drawn(self, groups: Sequence[int], per_group: int, seed: int) -> "Biographies":
        generator, rows = torch.Generator().manual_seed(seed), []
        for group in groups:
            there = (self.group == group).nonzero()[:, 0]
            if len(there) < per_group:
                what = f"{'hers' if group % 2 else 'his'} of the {'second' if group > 1 else 'first'} occupation"
                raise DataError(f"{per_group} biographies are asked for, and {what} are {len(there)}", "ask for fewer")
            rows.append(there[torch.randperm(len(there), generator=generator)[:per_group]])
        joined = torch.cat(rows)
        return self[joined[torch.randperm(len(joined), generator=generator)]]


def write_biographies(per_group: int, split: Split = "train", seed: int = 0) -> Biographies:
    """From templates: four groups of a size. Splits share no name and no sentence on the work.

    Raises UsageError for a split that there is not.
    """
    if split not in DOES[0]:
        raise UsageError(f"there are no biographies of the split {split}", f"take one of: {', '.join(DOES[0])}")
    rng, texts, label, hers = Random(f"{seed} {split}"), [], [], []
    for occupation in (0, 1):
        for gender in (0, 1):
            names = (MALE, FEMALE)[gender].share(split)
            for _ in range(per_group):
                texts.append(_written(rng, DOES[occupation][split], rng.choice(names), PRONOUNS[gender]))
                label.append(occupation == 1)
                hers.append(gender == 1)
    return Biographies(tuple(texts), torch.tensor(label), torch.tensor(hers))


def read_biographies(
    path: Path, professions: tuple[int, int] = PROFESSIONS, columns: tuple[str, str, str] = COLUMNS
) -> Biographies:
    """Bias-in-Bios out of a .jsonl or .csv file; biographies of other professions are left out.

    Raises UsageError for a file that is not there or of another kind, DataError for a column that is missing or a cell
    that is no number, naming the record, and where none of the two professions is there.
    """
    text, profession, gender = columns
    texts, label, hers = [], [], []
    for number, record in _records(path):
        missing = [name for name in columns if name not in record]
        if missing:
            raise DataError(
                f"record {number} of {path.name} has no {', '.join(missing)}; it has: {', '.join(map(str, record))}",
                "name the columns of text, profession and gender: columns=(..., ..., ...)",
            )
        try:
            which, whose = int(record[profession]), int(record[gender])
        except (TypeError, ValueError) as error:
            raise DataError(
                f"record {number} of {path.name}: {error}", "professions and genders are numbers"
            ) from error
        if which in professions and record[text]:
            texts.append(str(record[text]))
            label.append(which == professions[1])
            hers.append(whose == 1)
    if not texts:
        raise DataError(f"{path.name} has no biography of the professions {professions}", "give two that it has")
    return Biographies(tuple(texts), torch.tensor(label), torch.tensor(hers))


def _written(rng: Random, does: Sequence[str], name: str, pronouns: tuple[str, str, str]) -> str:
    he, his, him = pronouns
    sentences = [*rng.sample(LIFE, 3), f"{rng.choice(('{He}', '{name}'))} {rng.choice(does)}"]
    rng.shuffle(sentences)
    fillers = {"He": he.capitalize(), "he": he, "his": his, "him": him, "name": name}
    more = {"town": rng.choice(TOWNS), "hobby": rng.choice(HOBBIES), "manner": rng.choice(MANNERS)}
    return " ".join([OPENING, *(f"{sentence.format(**fillers, **more)}." for sentence in sentences)])


def _records(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if path.suffix not in (".jsonl", ".csv") or not path.is_file():
        raise UsageError(f"{path} is no .jsonl or .csv file", "write the data set as JSON lines, one record a line")
    with path.open(encoding="utf-8", newline="" if path.suffix == ".csv" else None) as lines:
        if path.suffix == ".csv":
            yield from enumerate(csv.DictReader(lines), start=1)
            return
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line) if line.strip() else None
            except json.JSONDecodeError as error:
                raise DataError(
                    f"line {number} of {path.name} is not JSON: {error.msg}", "one object a line"
                ) from error
            if record is not None:
                yield number, record
