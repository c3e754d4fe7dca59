"""From texts to a folder with a codebook and its concepts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from time import perf_counter
from typing import Any

from subcircuit import plugins
from subcircuit.concepts.catalogue import Catalogue, catalogued, class_means
from subcircuit.concepts.codebook import About, Codebook
from subcircuit.concepts.stability import adjusted_rand
from subcircuit.concepts.states import States
from subcircuit.concepts.vectors import Vectors
from subcircuit.errors import UsageError
from subcircuit.progress import Progress, silent

__all__ = ["CODEBOOKS", "Refitted", "Study", "fit", "layers_of", "method_named", "refit"]

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
    low, high = _vectors(states, layer, upper, sentences)
    book, assigned = method.fit(low, high, progress=progress)
    book = _placed(book, states, layer, upper)
    about = book.about.model_copy(update={"seconds": round(perf_counter() - began, 3)})
    book = replace(book, about=about, classes=class_means(states, layer))
    return Study(book, catalogued(states, assigned, len(book), low.rows))


@dataclass(frozen=True)
class Refitted:
    """Codebooks that differ in their seeds alone."""

    books: dict[int, Codebook]  # by seed
    agreement: list[float]  # the adjusted Rand index of every two


def refit(about: About, states: States, seeds: Sequence[int], *, progress: Progress = silent) -> Refitted:
    """A codebook of words' states again, by each of these seeds. Raises UsageError for the states of another model."""
    if states.record.revision != about.revision:
        raise UsageError(f"{states.folder} holds states of {states.record.model}", "give the codebook's own: --states")
    low, high = _vectors(states, about.layer, about.upper, False)
    books, assigned = {}, []
    for done, seed in enumerate(seeds):
        progress("seeds", done, len(seeds))
        method = method_named(about.method, None, about.settings | {"seed": seed})
        book, mine = method.fit(low, high)
        books[seed] = _placed(book, states, about.layer, about.upper)
        assigned.append(mine)
    return Refitted(books, [adjusted_rand(one, other) for one, other in combinations(assigned, 2)])


def _vectors(states: States, layer: int, upper: int | None, sentences: bool) -> tuple[Vectors, Vectors | None]:
    low = states.vectors(layer, sentences=sentences)
    return low, None if upper is None else states.vectors(upper, sentences=sentences)


def _placed(book: Codebook, states: States, layer: int, upper: int | None) -> Codebook:
    """With the model and the layer that it is of."""
    record = states.record
    place = {"model": record.model, "revision": record.revision, "dtype": record.dtype, "layer": layer, "upper": upper}
    return replace(book, about=book.about.model_copy(update=place))


def method_named(name: str, preset: str | None, settings: dict[str, Any]) -> Any:
    """A method of the table with these settings. Raises UnknownName."""
    kind = plugins.load(CODEBOOKS, name)
    return (getattr(kind, preset) if preset else kind)(**settings)


def layers_of(layer: int, upper: int | None) -> Sequence[int]:
    """Those to harvest."""
    return [layer] if upper is None else [layer, upper]
