"""From texts to a folder with a codebook and its concepts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from subcircuit import plugins
from subcircuit.concepts.catalogue import Catalogue, catalogued, class_means
from subcircuit.concepts.codebook import About, Codebook
from subcircuit.concepts.stability import stability
from subcircuit.concepts.states import States
from subcircuit.errors import UsageError
from subcircuit.progress import Progress, silent

__all__ = ["CODEBOOKS", "Study", "agreement", "fit", "layers_of", "method_named"]

CODEBOOKS = "concepts/codebooks"  # the table of methods


@dataclass(frozen=True)
class Study:
    """A codebook and what its codes stand for."""

    book: Codebook
    catalogue: Catalogue

    def save(self, folder: Path) -> None:
        self.book.save(folder)
        self.catalogue.save(folder)

    @classmethod
    def load(cls, folder: Path) -> "Study":
        """Raises UsageError, DataError."""
        return cls(Codebook.load(folder), Catalogue.load(folder))


def fit(
    method: Any,
    states: States,
    layer: int,
    upper: int | None = None,
    *,
    sentences: bool = False,
    progress: Progress = silent,
) -> Study:
    """A codebook of the words' states at a layer, or of the states at judged positions. Raises as the method does."""
    began = perf_counter()
    low = states.vectors(layer, sentences=sentences)
    high = None if upper is None else states.vectors(upper, sentences=sentences)
    book, assigned = method.fit(low, high, progress=progress)
    about = book.about.model_copy(
        update={
            "model": states.record.model,
            "revision": states.record.revision,
            "dtype": states.record.dtype,
            "layer": layer,
            "upper": upper,
            "seconds": round(perf_counter() - began, 3),
        }
    )
    book = replace(book, about=about, classes=class_means(states, layer))
    return Study(book, catalogued(states, assigned, len(book), low.rows))


def agreement(about: About, states: States, seeds: Sequence[int], *, progress: Progress = silent) -> list[float]:
    """How far codebooks of these seeds agree, two by two. Raises UsageError for the states of another model."""
    if states.record.revision != about.revision:
        raise UsageError(f"{states.folder} holds states of {states.record.model}", "give the codebook's own: --states")
    high = None if about.upper is None else states.vectors(about.upper)
    method = method_named(about.method, None, about.settings)
    return stability(method, seeds, states.vectors(about.layer), high, progress=progress)


def method_named(name: str, preset: str | None, settings: dict[str, Any]) -> Any:
    """A method of the table with these settings. Raises UnknownName."""
    kind = plugins.load(CODEBOOKS, name)
    return (getattr(kind, preset) if preset else kind)(**settings)


def layers_of(layer: int, upper: int | None) -> Sequence[int]:
    """Those to harvest."""
    return [layer] if upper is None else [layer, upper]
