"""Facts without examples: "Fact: The capital of France is the city of" -> " Paris".

Factual recall as in ROME (Meng et al. 2022), on capitals. The corrupted prompt asks for another country of as many
tokens; with the reference `noise` it is the clean prompt with noise on the country's embeddings, as in the paper.
"""

from collections import defaultdict
from dataclasses import dataclass
from random import Random

from subcircuit.errors import DataError
from subcircuit.tasks._base import Row, Split
from subcircuit.tasks._reading import Reading
from subcircuit.tasks._templated import Space, Templated
from subcircuit.tasks.capital import CAPITALS

__all__ = ["FactRecall"]

OPENINGS: dict[Split, tuple[str, ...]] = {
    "train": ("Fact: {}", "Note: {}", "Remember this. {}", "From an atlas: {}"),
    "validation": ("A hint: {}", "It is well known. {}", "From a guide: {}"),
    "test": ("Geography: {}", "From a letter: {}", "To be exact: {}"),
}
TEMPLATES: dict[Split, tuple[str, ...]] = {
    "train": (
        "The capital of {} is the city of",
        "The capital city of {} is called",
        "As everyone knows, the capital of {} is",
        "The seat of the government of {} is in",
        "I flew to the capital of {}, which is",
        "If you ask for the capital of {}, the answer is",
    ),
    "validation": (
        "The name of the capital of {} is",
        "A map shows that the capital of {} is",
        "The president of {} lives in the capital,",
        "The parliament of {} meets in the city of",
        "At school we learn that the capital of {} is",
        "Travellers to {} first visit the capital,",
    ),
    "test": (
        "The city that is the capital of {} is",
        "We moved to {}, and we live in its capital,",
        "The embassy in {} is in the capital,",
        "For {} the capital city is",
        "The largest airport of {} is near the capital,",
        "Most ministers of {} work in the city of",
    ),
}


@dataclass(frozen=True)
class FactRecall(Templated):
    """The capital of a country, without examples."""

    pools = (CAPITALS,)

    def space(self, reading: Reading, split: Split) -> Space:
        """Opening, template and country; the corrupted prompt draws another of as many tokens."""
        peers = self._peers(reading, split)

        def write(rng: Random, opening: str, template: str, asked: tuple[str, ...]) -> Row:
            other = rng.choice([country for country in peers[asked] if country != asked])
            clean, corrupt = (opening.format(template.format(country[0])) for country in (asked, other))
            return Row(clean, corrupt, (f" {asked[1]}",), (f" {other[1]}",))

        return Space((OPENINGS[split], TEMPLATES[split], list(peers)), write)

    def _peers(self, reading: Reading, split: Split) -> dict[tuple[str, ...], list[tuple[str, ...]]]:
        """Each country with those of as many tokens. Raises DataError when none has another beside it."""
        by_length: defaultdict[int, list[tuple[str, ...]]] = defaultdict(list)
        for country in CAPITALS.kept(reading, split, least=2):
            by_length[len(reading.follow("The capital of", f" {country[0]}") or ())].append(country)
        peers = {country: group for group in by_length.values() if len(group) > 1 for country in group}
        if not peers:
            raise DataError(
                f"fact-recall: no two countries of the {split} split have as many tokens as each other",
                "choose another task, or write prompts for this tokenizer into a .jsonl file",
            )
        return peers
