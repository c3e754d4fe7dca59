"""Subject-verb agreement across a noun of the other number: "The keys to the cabinet" -> " are", not " is".

Linzen et al. 2016, arXiv 1611.01368; as pairs in Finlayson et al. 2021, arXiv 2106.06087. The corrupted prompt has the
subject in its other number; the noun in between stays. Right and wrong are each two verbs, judged together.
"""

from dataclasses import dataclass
from random import Random
from typing import Annotated

from subcircuit.tasks._base import Row, Split
from subcircuit.tasks._fillers import items
from subcircuit.tasks._reading import Reading
from subcircuit.tasks._templated import Space, Templated, choose

__all__ = ["Agreement"]

VERBS = ((" is", " was"), (" are", " were"))  # by number: singular, plural
SUBJECTS = items(
    "subjects",
    """
    key/keys book/books dog/dogs car/cars teacher/teachers student/students picture/pictures letter/letters boy/boys
    girl/girls friend/friends doctor/doctors player/players worker/workers writer/writers artist/artists tree/trees
    bird/birds horse/horses child/children man/men woman/women cat/cats box/boxes chair/chairs lawyer/lawyers
    driver/drivers farmer/farmers singer/singers king/kings toy/toys plant/plants
    pilot/pilots judge/judges lion/lions soldier/soldiers actor/actors visitor/visitors guest/guests painter/painters
    bottle/bottles flower/flowers truck/trucks bag/bags cup/cups rabbit/rabbits machine/machines coin/coins
    ticket/tickets bike/bikes sign/signs ball/balls guide/guides guard/guards
    """,
)
ATTRACTORS = items(
    "attractors",
    """
    cabinet/cabinets table/tables house/houses door/doors window/windows garden/gardens building/buildings
    school/schools church/churches store/stores road/roads river/rivers bridge/bridges wall/walls mountain/mountains
    office/offices field/fields lake/lakes tower/towers hospital/hospitals hotel/hotels castle/castles farm/farms
    shop/shops station/stations statue/statues fence/fences gate/gates market/markets theater/theaters library/libraries
    factory/factories restaurant/restaurants museum/museums tent/tents boat/boats train/trains
    """,
)
TEMPLATES: dict[Split, tuple[str, ...]] = {
    "train": (
        "The {subject} near the {attractor}",
        "The {subject} behind the {attractor}",
        "I think the {subject} by the {attractor}",
        "As we know, the {subject} in front of the {attractor}",
        "She said that the {subject} from the {attractor}",
        "Of course, the {subject} next to the {attractor}",
    ),
    "validation": (
        "The {subject} beside the {attractor}",
        "They say that the {subject} inside the {attractor}",
        "It seems that the {subject} below the {attractor}",
    ),
    "test": (
        "The {subject} to the left of the {attractor}",
        "We heard that the {subject} around the {attractor}",
        "Everyone knows the {subject} across from the {attractor}",
    ),
}


@dataclass(frozen=True)
class Agreement(Templated):
    """The verb's number, which is the subject's and not the nearest noun's."""

    attractor: Annotated[str, "number of the noun in between: opposite to the subject's, or the same"] = "opposite"

    pools = (SUBJECTS, ATTRACTORS)

    def __post_init__(self) -> None:
        choose("attractor", self.attractor, ("opposite", "same"))

    def space(self, reading: Reading, split: Split) -> Space:
        """Template, number, subject and attractor."""

        def write(rng: Random, template: str, number: int, subject: tuple[str, str], attractor: tuple[str, str]) -> Row:
            between = attractor[number if self.attractor == "same" else 1 - number]
            clean, corrupt = (template.format(subject=subject[i], attractor=between) for i in (number, 1 - number))
            return Row(clean, corrupt, VERBS[number], VERBS[1 - number])

        subjects, attractors = (pool.kept(reading, split) for pool in self.pools)
        return Space((TEMPLATES[split], (0, 1), subjects, attractors), write)
