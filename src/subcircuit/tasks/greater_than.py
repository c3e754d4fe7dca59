"""Greater-than: "The war lasted from the year 1766 to the year 176" -> a digit above 6.

Hanna et al. 2023, arXiv 2305.00586. Departs from it: the paper's form (`pair`: "17" shown, the two last digits judged)
needs a tokenizer that cuts years in two; others get the form that suits how they cut them. The corrupted prompt has the
lowest value at the judged place, so that every later year will do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Annotated

from transformers import PreTrainedTokenizerBase

from subcircuit.errors import DataError
from subcircuit.tasks._base import SPLITS, Row, Split
from subcircuit.tasks._fillers import Pool, words
from subcircuit.tasks._reading import Reading
from subcircuit.tasks._templated import Space, Templated, choose

__all__ = ["GreaterThan"]

EVENTS = words(
    "events",
    """
    war campaign expedition siege voyage dynasty reign conflict rebellion project strike study trial survey alliance
    march pilgrimage plague empire drought festival mission journey famine treaty feud operation revolution regime
    occupation crisis construction friendship partnership quarrel debate
    """,
)
DECADES = Pool("decades", tuple(str(decade) for decade in range(110, 190)), lambda decade: ())
LEAST = 8  # years in each split that make a form worth its name
TEMPLATES: dict[Split, tuple[str, ...]] = {
    "train": (
        "The {event} lasted from the year {year} to the year",
        "The {event} went on from the year {year} to the year",
        "The {event} ran from the year {year} until the year",
        "The {event}, which began in the year {year}, ended in the year",
        "From the year {year} the {event} continued until the year",
        "We know that the {event} took from the year {year} to the year",
    ),
    "validation": (
        "The {event} stretched from the year {year} to the year",
        "It is said that the {event} began in the year {year} and ended in the year",
    ),
    "test": (
        "The {event} extended from the year {year} to the year",
        "The {event} started in the year {year} and was over in the year",
        "In all, the {event} dragged on from the year {year} until the year",
    ),
}


@dataclass(frozen=True)
class Form:
    """Which digits of the second year are given away, and which are judged."""

    shown: int
    judged: int
    lowest: str  # the last judged digits in the corrupted prompt
    tie: bool = True  # is the first year's own value wrong? not while smaller digits are still to come

    def prompt(self, template: str, event: str, first: str, second: str) -> str:
        """The prompt; of the second year only what is given away."""
        text = template.format(event=event, year=first)
        return f"{text} {second[: self.shown]}" if self.shown else text

    def answer(self, year: str) -> str:
        """The judged digits, spelt as they go on from the prompt."""
        judged = year[self.shown : self.shown + self.judged]
        return judged if self.shown else f" {judged}"

    def put(self, year: str, digits: str) -> str:
        """The year with its last judged digits replaced."""
        end = self.shown + self.judged
        return year[: end - len(digits)] + digits + year[end:]

    def rivals(self, year: str) -> list[str]:
        """The years of the same century that differ in the judged digits only, in order."""
        width = min(self.judged, 2)
        return [self.put(year, f"{value:0{width}}") for value in range(10**width)]

    def suits(self, reading: Reading, year: str) -> bool:
        """Are the judged digits one token, and does the year keep its length at the lowest?"""
        prompt = reading.open(self.prompt("from the year {year} to the year", "", year, year))
        tokens = reading.follow(prompt, self.answer(year))
        lengths = {len(reading.ids(f"the year {some} to")) for some in (year, self.put(year, self.lowest))}
        return tokens is not None and len(tokens) == 1 and reading.known(tokens) and len(lengths) == 1


FORMS: Mapping[str, Form] = {
    "ones": Form(shown=3, judged=1, lowest="0"),
    "pair": Form(shown=2, judged=2, lowest="01"),
    "whole": Form(shown=0, judged=4, lowest="01"),
    "tens": Form(shown=2, judged=1, lowest="0", tie=False),
}


@dataclass(frozen=True)
class GreaterThan(Templated):
    """A year that is later than the one before."""

    form: Annotated[
        str, "judged digits: ones (176_), tens (17_), pair (17__), whole (____) or auto (the first to suit)"
    ] = "auto"

    def __post_init__(self) -> None:
        choose("form", self.form, ("auto", *FORMS))

    def coverage(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, tuple[int, int]]:
        """How many years the form can use, of how many. Raises DataError when no form suits the tokenizer."""
        reading = Reading(tokenizer)
        name = self._form(reading)
        kept = sum(len(_suiting(reading, FORMS[name], split)) for split in SPLITS)
        total = sum(len(_roomy(FORMS[name], split)) for split in SPLITS)
        return {f"years in the form '{name}'": (kept, total)}

    def space(self, reading: Reading, split: Split) -> Space:
        """Template, event and first year."""
        form = FORMS[self._form(reading)]
        years = _suiting(reading, form, split)

        def write(rng: Random, template: str, event: str, year: str) -> Row:
            rivals = [rival for rival in form.rivals(year) if form.suits(reading, rival)]
            later = tuple(form.answer(rival) for rival in rivals if rival > year)
            others = tuple(form.answer(rival) for rival in rivals if rival < year or (form.tie and rival == year))
            clean, corrupt = (
                form.prompt(template, event, first, year) for first in (year, form.put(year, form.lowest))
            )
            return Row(clean, corrupt, later, others)

        return Space((TEMPLATES[split], EVENTS.share(split), years), write)

    def _form(self, reading: Reading) -> str:
        """The form asked for, or the first to suit."""
        asked = tuple(FORMS) if self.form == "auto" else (self.form,)
        # a mask token stands for a word, not for the rest of one
        names = [name for name in asked if not reading.encoder or not FORMS[name].shown]
        for name in names:
            if all(len(_suiting(reading, FORMS[name], split)) >= LEAST for split in SPLITS):
                return name
        cut = " | ".join(reading.tokens(reading.ids("the year 1766")))
        raise DataError(
            f"greater-than: this tokenizer cuts 'the year 1766' into {cut}, which suits no form of {', '.join(asked)}",
            "choose another form or task",
        )


def _roomy(form: Form, split: Split) -> list[str]:
    """A split's years that leave room below, so that the corrupted prompt is another, and above."""
    years = (f"{decade}{one}" for decade in DECADES.share(split) for one in range(10))
    return [year for year in years if year in form.rivals(year)[2:-1]]


def _suiting(reading: Reading, form: Form, split: Split) -> list[str]:
    """Those whose digits are tokens as the form needs them."""
    return [year for year in _roomy(form, split) if form.suits(reading, year)]
