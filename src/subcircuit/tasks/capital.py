"""Capitals, with two examples: "The capital of France is Paris. ... The capital of Italy is" -> " Rome".

Factual recall in context, as in Todd et al. 2024, arXiv 2310.15213. The corrupted prompt asks for another country of as
many tokens, so that the answer flips; the examples stay.
"""

from collections import defaultdict
from dataclasses import dataclass
from random import Random

from subcircuit.errors import DataError
from subcircuit.tasks._base import Row, Split
from subcircuit.tasks._fillers import Arrangements, Pool, items
from subcircuit.tasks._reading import Reading
from subcircuit.tasks._templated import Space, Templated

__all__ = ["Capital"]

LEAST = 4  # countries of one token count: two examples, the one asked for and the one that replaces it
COUNTRIES = items(
    "capitals",
    """
    France/Paris Italy/Rome Japan/Tokyo Spain/Madrid Germany/Berlin England/London Russia/Moscow China/Beijing
    Egypt/Cairo Greece/Athens Austria/Vienna Poland/Warsaw Sweden/Stockholm Norway/Oslo Ireland/Dublin Portugal/Lisbon
    Turkey/Ankara Iran/Tehran Iraq/Baghdad Cuba/Havana Canada/Ottawa Hungary/Budapest Belgium/Brussels
    Denmark/Copenhagen Finland/Helsinki Ukraine/Kiev Syria/Damascus Lebanon/Beirut Thailand/Bangkok Vietnam/Hanoi
    Afghanistan/Kabul Kenya/Nairobi Peru/Lima Chile/Santiago Venezuela/Caracas Libya/Tripoli Scotland/Edinburgh
    Wales/Cardiff Indonesia/Jakarta Croatia/Zagreb Serbia/Belgrade Romania/Bucharest Bulgaria/Sofia Nepal/Kathmandu
    Pakistan/Islamabad Bangladesh/Dhaka Taiwan/Taipei Jordan/Amman Israel/Jerusalem Ghana/Accra Jamaica/Kingston
    Switzerland/Bern Australia/Canberra Qatar/Doha Uruguay/Montevideo Latvia/Riga Estonia/Tallinn Ecuador/Quito
    Senegal/Dakar Zimbabwe/Harare Uganda/Kampala Armenia/Yerevan Morocco/Rabat Tunisia/Tunis
    """,
)
CAPITALS = Pool("capitals", COUNTRIES.items, lambda country: country[1:])  # a country may be several tokens
TEMPLATES: dict[Split, tuple[str, ...]] = {
    "train": (
        "The capital of {0} is {1}. The capital of {2} is {3}. The capital of {4} is",
        "As we know, the capital city of {0} is {1}, that of {2} is {3}, and that of {4} is",
        "Question: What is the capital of {0}? Answer: {1}. Question: What is the capital of {2}? Answer: {3}. "
        "Question: What is the capital of {4}? Answer:",
        "For {0} the capital is {1}. For {2} the capital is {3}. For {4} the capital is",
    ),
    "validation": (
        "The capital city of {0} is {1}. The capital city of {2} is {3}. The capital city of {4} is",
        "In {0}, the capital is {1}. In {2}, the capital is {3}. In {4}, the capital is",
    ),
    "test": (
        "The government of {0} sits in {1}. The government of {2} sits in {3}. The government of {4} sits in",
        "The capital of {0} is called {1}, the capital of {2} is called {3}, and the capital of {4} is called",
        "If you go to {0}, see its capital, {1}. If you go to {2}, see its capital, {3}. "
        "If you go to {4}, see its capital,",
    ),
}


@dataclass(frozen=True)
class Capital(Templated):
    """The capital of a country."""

    pools = (CAPITALS,)

    def space(self, reading: Reading, split: Split) -> Space:
        """Template and three countries of one token count; the corrupted prompt draws a fourth."""
        groups = self._groups(reading, split)
        peers = {country: group for group in groups for country in group}

        def write(rng: Random, template: str, triple: tuple[tuple[str, ...], ...]) -> Row:
            *examples, asked = triple
            other = rng.choice([country for country in peers[asked] if country not in triple])
            shown = [word for country in examples for word in country]
            clean, corrupt = (template.format(*shown, country[0]) for country in (asked, other))
            return Row(clean, corrupt, (f" {asked[1]}",), (f" {other[1]}",))

        return Space((TEMPLATES[split], Arrangements(list(peers), 3)), write)

    def _groups(self, reading: Reading, split: Split) -> list[list[tuple[str, ...]]]:
        """A split's countries by their number of tokens. Raises DataError when no group is large enough."""
        by_length: defaultdict[int, list[tuple[str, ...]]] = defaultdict(list)
        for country in CAPITALS.kept(reading, split, least=LEAST):
            tokens = reading.follow("The capital of", f" {country[0]}")
            by_length[len(tokens or ())].append(country)
        groups = [group for group in by_length.values() if len(group) >= LEAST]
        if not groups:
            found = "; ".join(f"{n} tokens: {', '.join(c[0] for c in group)}" for n, group in by_length.items())
            raise DataError(
                f"capital: no {LEAST} countries of the {split} split have as many tokens as each other ({found})",
                "choose another task, or write prompts for this tokenizer into a .jsonl file",
            )
        return groups
