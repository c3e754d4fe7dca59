"""What people call concepts, kept beside a codebook in `labels.json`.

A label hangs on its concept's id, a hash of the concept's direction. So it survives whatever numbers the codes anew,
and a codebook that is fitted again to other directions takes over no label that is not its own.
"""

import hashlib
from typing import ClassVar

from pydantic import Field

from subcircuit.concepts.beside import Beside
from subcircuit.concepts.codebook import Codebook
from subcircuit.errors import UsageError

__all__ = ["Labels", "concept_ids", "find_concept"]

LENGTH, SHORTEST = 12, 4  # hexadecimal digits of an id, and those that it may be shortened to


class Labels(Beside):
    """`labels.json`."""

    FILE: ClassVar[str] = "labels.json"
    CURE: ClassVar[str] = "mend the file, or remove it"

    labels: dict[str, str] = Field(default_factory=dict, description="by the concept's id")

    def given(self, identity: str, text: str) -> "Labels":
        """With this label, or for an empty text without one."""
        others = {key: value for key, value in self.labels.items() if key != identity}
        return Labels(labels=others | ({identity: text.strip()} if text.strip() else {}))


def concept_ids(book: Codebook) -> list[str]:
    """Of every code."""
    rows = book.directions.float().numpy().astype("<f4")
    return [hashlib.sha256(row.tobytes()).hexdigest()[:LENGTH] for row in rows]


def find_concept(book: Codebook, text: str) -> tuple[int, str]:
    """The code and the id that begins with `text`. Raises UsageError where none does, or several do."""
    ids, start = concept_ids(book), text.strip().lower()
    found = [code for code, each in enumerate(ids) if each.startswith(start)]
    if len(start) >= SHORTEST and len(found) == 1:
        return found[0], ids[found[0]]
    said = f"{len(found)} concepts have an id that begins with '{text}'"
    if len(start) < SHORTEST:
        said = f"'{text}' is too short for the id of a concept"
    raise UsageError(said, f"give an id as the report shows it, {SHORTEST} digits or more of it, for example {ids[0]}")
