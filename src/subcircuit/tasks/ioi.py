"""Indirect object identification: "Then, Mary and John went to the store. John gave a drink to" -> " Mary".

Wang et al. 2022, arXiv 2211.00593. Departs from it: more varied templates, which no two splits share, as they share no
name, place or object; and the default corruption names the indirect object as giver, so that the answer flips.
"""

from dataclasses import dataclass
from random import Random
from typing import Annotated

from subcircuit.tasks._base import Row, Split
from subcircuit.tasks._fillers import FEMALE, MALE, Arrangements, words
from subcircuit.tasks._reading import Reading
from subcircuit.tasks._templated import Space, Templated, choose

__all__ = ["IOI"]

ORDERS = {"ABBA": (0,), "BABA": (1,), "both": (0, 1)}
CORRUPTIONS = ("s2-io-flip", "abc")

PLACES = words(
    "places",
    """
    store garden restaurant school hospital office house station park library market museum beach theater church
    hotel kitchen bar cafe farm bank castle stadium zoo airport lake forest village gym bakery pool harbor
    """,
)
OBJECTS = words(
    "objects",
    """
    ring drink snack book ball flower letter basketball computer necklace bone gift key map camera hat coat ticket
    picture bottle phone pencil sandwich guitar bag newspaper lamp toy knife cup cookie shirt box
    """,
)
TEMPLATES: dict[Split, tuple[str, ...]] = {
    "train": (
        "Then, {one} and {two} went to the {place}. {giver} gave a {object} to",
        "After {one} and {two} went to the {place}, {giver} gave a {object} to",
        "When {one} and {two} got a {object} at the {place}, {giver} decided to give it to",
        "While {one} and {two} were working at the {place}, {giver} gave a {object} to",
        "Then, {one} and {two} had a long argument at the {place}, and {giver} threw a {object} at",
        "The {place} that {one} and {two} went to had a {object}. {giver} gave it to",
        "My friends {one} and {two} found a {object} at the {place}. {giver} gave it to",
        "Yesterday {one} and {two} met at the {place}, and {giver} offered a {object} to",
        "Once {one} and {two} were at the {place}, {giver} passed a {object} to",
        "At the {place}, {one} and {two} were talking about a {object}, and then {giver} handed it to",
        "On Monday {one} and {two} took a walk to the {place}. There {giver} bought a {object} for",
        "Long ago {one} and {two} lived near the {place}. One day {giver} lent a {object} to",
        "Both {one} and {two} wanted a {object} from the {place}, so {giver} got one for",
        "Then {one} and {two} came out of the {place} with a {object}, which {giver} gave to",
    ),
    "validation": (
        "Last night {one} and {two} sat in the {place}. {giver} brought a {object} to",
        "As {one} and {two} left the {place}, {giver} tossed a {object} to",
        "Today {one} and {two} visited the {place}, and {giver} gave a {object} to",
        "Since {one} and {two} were both at the {place}, {giver} took a {object} and gave it to",
    ),
    "test": (
        "This morning {one} and {two} walked to the {place}. {giver} sent a {object} to",
        "Before {one} and {two} reached the {place}, {giver} sold a {object} to",
        "In the evening {one} and {two} drove to the {place}, and {giver} carried a {object} to",
        "Although {one} and {two} were late for the {place}, {giver} still mailed a {object} to",
        "Because {one} and {two} were at the {place}, {giver} could hand a {object} to",
        "Two neighbors, {one} and {two}, stayed at the {place}. In the end {giver} returned the {object} to",
    ),
}


@dataclass(frozen=True)
class IOI(Templated):
    """Who receives: the name that is mentioned once."""

    order: Annotated[str, "ABBA (the receiver first), BABA (the giver first) or both"] = "both"
    corruption: Annotated[str, "s2-io-flip (the receiver gives: the answer flips) or abc (three other names)"] = (
        "s2-io-flip"
    )

    pools = (MALE, FEMALE)

    def __post_init__(self) -> None:
        choose("order", self.order, tuple(ORDERS))
        choose("corruption", self.corruption, CORRUPTIONS)

    def space(self, reading: Reading, split: Split) -> Space:
        """Template, order, the two names, place and object; `abc` draws three names more."""
        names = [name for pool in self.pools for name in pool.kept(reading, split, least=3)]

        def write(rng: Random, template: str, swapped: int, pair: tuple[str, str], place: str, thing: str) -> Row:
            def prompt(receiver: str, subject: str, giver: str) -> str:
                one, two = (subject, receiver) if swapped else (receiver, subject)
                return template.format(one=one, two=two, giver=giver, place=place, object=thing)

            receiver, giver = pair
            others = rng.sample([name for name in names if name not in pair], 3)
            flip = self.corruption == "s2-io-flip"
            corrupt = prompt(receiver, giver, receiver) if flip else prompt(*others)
            return Row(prompt(receiver, giver, giver), corrupt, (f" {receiver}",), (f" {giver}",))

        axes = (TEMPLATES[split], ORDERS[self.order], Arrangements(names, 2), PLACES.share(split), OBJECTS.share(split))
        return Space(axes, write)
