"""The page of a codebook whose concepts can be given labels while it is served."""

from pathlib import Path

from fastapi import APIRouter

from subcircuit.concepts.codebook import Codebook
from subcircuit.concepts.labels import Labels, find_concept
from subcircuit.report.concepts import concept_payload
from subcircuit.report.page import page
from subcircuit.view.concept_questions import ConceptAbout, Label

__all__ = ["NamedPage"]


class NamedPage:
    """The page as the labels are now. Raises DataError as `concept_payload`."""

    def __init__(self, folder: Path, book: Codebook, about: ConceptAbout, circuit: str | None = None) -> None:
        self.folder, self.book, self.about = folder, book, about
        self._payload, self._arrays = concept_payload(str(folder), circuit)

    def html(self) -> str:
        """The page itself."""
        return page(self._payload, self._arrays, live=self.about)

    def give(self, identity: str, label: str) -> Labels:
        """Keep a label in the codebook's folder; what others have put there meanwhile stays.

        Raises UsageError for an id that no concept has, DataError for a file that is broken, ResourceError.
        """
        _, found = find_concept(self.book, identity)
        labels = (Labels.load(self.folder) or Labels()).given(found, label)
        labels.save(self.folder)
        self._payload = self._payload.labelled(labels, self.folder)
        return labels

    @property
    def calls(self) -> APIRouter:
        """`PUT labels/ID`, which answers with all labels, by id."""
        calls = APIRouter()

        @calls.put("/labels/{identity}")
        async def put(identity: str, given: Label) -> dict[str, str]:
            return self.give(identity, given.label).labels

        return calls
