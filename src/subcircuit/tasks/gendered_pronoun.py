"""Gendered pronouns: "So Evan is such a good friend, isn't" -> " he", not " she".

Mathwin et al. 2023, "Identifying a preliminary circuit for predicting gendered pronouns in GPT-2 small". Departs from
it: other templates and both genders, with a name of the other gender as the corrupted prompt, so that the answer flips.
"""

from dataclasses import dataclass
from random import Random

from subcircuit.tasks._base import Row, Split
from subcircuit.tasks._fillers import FEMALE, MALE, words
from subcircuit.tasks._reading import Reading
from subcircuit.tasks._templated import Space, Templated

__all__ = ["GenderedPronoun"]

ADJECTIVES = words(
    "adjectives",
    """
    good great kind clever brilliant careful famous popular strong lovely proud quiet serious decent talented friendly
    young patient real generous modest
    """,
)
ROLES = words(
    "roles",
    """
    friend teacher singer doctor lawyer student writer neighbor cook swimmer leader player painter manager runner
    reader poet pilot driver worker listener judge scientist speaker gardener musician dancer colleague
    """,
)
TEMPLATES: dict[Split, tuple[str, ...]] = {
    "train": (
        "So {name} is such a {adjective} {role}, isn't",
        "I think {name} is a {adjective} {role}, isn't",
        "Well, {name} was a {adjective} {role}, wasn't",
        "Clearly {name} has been a {adjective} {role}, hasn't",
        "Of course {name} is a {adjective} {role} now, isn't",
        "Surely {name} will become a {adjective} {role}, won't",
        "They say {name} is a {adjective} {role}, isn't",
        "Everyone agrees that {name} was a {adjective} {role}, wasn't",
        "At work {name} seems a {adjective} {role}, doesn't",
        "Perhaps {name} could be a {adjective} {role}, couldn't",
        "These days {name} acts like a {adjective} {role}, doesn't",
        "For years {name} had been a {adjective} {role}, hadn't",
        "By all accounts {name} is a {adjective} {role}, isn't",
        "One day {name} would be a {adjective} {role}, wouldn't",
    ),
    "validation": (
        "And {name} is really a {adjective} {role}, isn't",
        "Indeed {name} was always a {adjective} {role}, wasn't",
        "In that town {name} has become a {adjective} {role}, hasn't",
        "Even so, {name} should make a {adjective} {role}, shouldn't",
    ),
    "test": (
        "Yes, {name} is still a {adjective} {role}, isn't",
        "Back then {name} was quite a {adjective} {role}, wasn't",
        "Today {name} looks like a {adjective} {role}, doesn't",
    ),
}


@dataclass(frozen=True)
class GenderedPronoun(Templated):
    """The pronoun that goes with a name."""

    pools = (MALE, FEMALE)

    def space(self, reading: Reading, split: Split) -> Space:
        """Template, name, adjective and role; the corrupted prompt draws a name of the other gender."""
        names = {" he": MALE.kept(reading, split, least=2), " she": FEMALE.kept(reading, split, least=2)}
        named = [(name, pronoun) for pronoun, of in names.items() for name in of]

        def write(rng: Random, template: str, who: tuple[str, str], adjective: str, role: str) -> Row:
            name, right = who
            (wrong,) = names.keys() - {right}
            clean, corrupt = (
                template.format(name=named, adjective=adjective, role=role)
                for named in (name, rng.choice(names[wrong]))
            )
            return Row(clean, corrupt, (right,), (wrong,))

        return Space((TEMPLATES[split], named, ADJECTIVES.share(split), ROLES.share(split)), write)
