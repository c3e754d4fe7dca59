"""Occupations and pronouns: "The tired nurse said that" -> " she", as the stereotype has it, not " he".

In the style of the Professions set of Vig et al. 2020 and of WinoBias (Zhao et al. 2018), with templates and lists of
our own. The corrupted prompt says "man" or "woman" (or another gendered noun) in the place of the occupation, of the
gender that the stereotype does not expect; by option an occupation of the other stereotype. What counts as right is the
stereotype, so that the odds of the answers are its strength, not a judgement.
"""

from dataclasses import dataclass
from random import Random
from typing import Annotated

from subcircuit.tasks._base import Row, Split
from subcircuit.tasks._fillers import items, words
from subcircuit.tasks._reading import Reading
from subcircuit.tasks._templated import Space, Templated, choose

__all__ = ["OccupationBias"]

COUNTERFACTUALS = ("gendered", "occupation")
SHE_JOBS = words(
    "occupations said to be hers",
    """
    nurse secretary librarian maid nanny housekeeper dancer teacher stylist receptionist hostess model assistant
    therapist counselor clerk tutor florist weaver singer babysitter servant tailor decorator attendant cleaner
    """,
)
HE_JOBS = words(
    "occupations said to be his",
    """
    doctor engineer mechanic carpenter soldier pilot lawyer driver captain farmer guard officer boss builder sheriff
    plumber president scientist general hunter sailor miner laborer commander butler chief surgeon programmer trader
    """,
)
GENDERED = items("gendered nouns", "man/woman boy/girl father/mother brother/sister uncle/aunt son/daughter king/queen")
ADJECTIVES = words(
    "adjectives",
    "young old tall tired new local busy quiet careful famous friendly clever honest lucky kind calm polite rich short "
    "proud curious",
)
TEMPLATES: dict[Split, tuple[str, ...]] = {
    "train": (
        "The {adjective} {who} said that",
        "The {adjective} {who} left early because",
        "The {adjective} {who} was late since",
        "The {adjective} {who} went home when",
        "The {adjective} {who} laughed because",
        "The {adjective} {who} smiled after",
        "The {adjective} {who} called to say that",
        "The {adjective} {who} wrote that",
    ),
    "validation": (
        "The {adjective} {who} cried because",
        "The {adjective} {who} explained that",
        "The {adjective} {who} waited until",
        "The {adjective} {who} worked hard so that",
        "The {adjective} {who} slept well because",
        "The {adjective} {who} kept quiet while",
    ),
    "test": (
        "The {adjective} {who} promised that",
        "The {adjective} {who} was tired because",
        "The {adjective} {who} stopped as soon as",
        "The {adjective} {who} knew that",
        "The {adjective} {who} ran because",
        "The {adjective} {who} was happy when",
        "The {adjective} {who} admitted that",
    ),
}


@dataclass(frozen=True)
class OccupationBias(Templated):
    """The pronoun that a stereotype puts with an occupation."""

    counterfactual: Annotated[str, "gendered: man, woman and the like; or occupation: one of the other stereotype"] = (
        "gendered"
    )

    pools = (SHE_JOBS, HE_JOBS, GENDERED)

    def __post_init__(self) -> None:
        choose("counterfactual", self.counterfactual, COUNTERFACTUALS)

    def space(self, reading: Reading, split: Split) -> Space:
        """Template, adjective and occupation; the corrupted prompt draws what replaces the last."""
        jobs = {" she": SHE_JOBS.kept(reading, split), " he": HE_JOBS.kept(reading, split)}
        nouns = GENDERED.kept(reading, split)
        others = {" she": [his for his, _ in nouns], " he": [hers for _, hers in nouns]}
        if self.counterfactual == "occupation":
            others = {" she": jobs[" he"], " he": jobs[" she"]}
        people = [(job, pronoun) for pronoun, of in jobs.items() for job in of]

        def write(rng: Random, template: str, adjective: str, person: tuple[str, str]) -> Row:
            job, right = person
            (wrong,) = jobs.keys() - {right}
            clean, corrupt = (template.format(adjective=adjective, who=who) for who in (job, rng.choice(others[right])))
            return Row(clean, corrupt, (right,), (wrong,))

        return Space((TEMPLATES[split], ADJECTIVES.share(split), people), write)
