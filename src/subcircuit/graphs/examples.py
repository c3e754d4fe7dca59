"""Texts that turn a feature on the most, beside a graph: `examples.json`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from subcircuit.features.documents import Documents
from subcircuit.features.transcoders import Transcoders
from subcircuit.files import load_record, save_record
from subcircuit.graphs.graph import Graph
from subcircuit.graphs.switching import features_on
from subcircuit.graphs.targets import words
from subcircuit.progress import Progress, silent
from subcircuit.subject import Subject

__all__ = ["EXAMPLES", "Example", "Examples", "find_examples"]

EXAMPLES = "examples.json"
AROUND = 12  # tokens that are shown on either side


class Example(BaseModel):
    """A place in a text where a feature is on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    before: str
    token: str
    after: str
    activation: float


class Examples(BaseModel):
    """`examples.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    windows: int = Field(description="of text that were read")
    features: dict[str, list[Example]] = Field(description="by layer.number, the strongest first")

    def save(self, folder: Path) -> None:
        """Write `examples.json`, whole or not at all. Raises ResourceError."""
        save_record(self, folder / EXAMPLES)

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """A folder's examples; None where it has none. Raises DataError for a broken file."""
        path = folder / EXAMPLES
        if not path.is_file():
            return None
        return load_record(cls, path, "a file of examples", missing="", broken="delete it, or make the graph again")


def find_examples(
    subject: Subject,
    transcoders: Transcoders,
    graph: Graph,
    documents: Documents,
    *,
    most: int = 5,
    skip: int = 1,
    progress: Progress = silent,
) -> Examples:
    """For every feature of a graph the windows of text that turn it on the most, each at its strongest token."""
    found: dict[tuple[int, int], list[Example]] = {
        (layer, number): [] for layer, _, number in sorted(graph.features.tolist())
    }
    by_layer = {layer: [number for each, number in found if each == layer] for layer, _ in found}
    for done in range(len(documents)):
        prompt = documents[done : done + 1].prompts()
        pieces = words(subject, prompt.ids[0, : int(prompt.lengths)].tolist())
        if len(pieces) > skip:
            layers = features_on(subject, transcoders, prompt, skip=skip)
            for layer, numbers in by_layer.items():
                values, places = layers[layer][:, numbers].max(0)
                for number, value, at in zip(numbers, values.tolist(), places.tolist(), strict=True):
                    if value > 0:
                        best = [*found[layer, number], _example(pieces, at + skip, value)]
                        found[layer, number] = sorted(best, key=lambda each: -each.activation)[:most]
        progress("examples", done + 1, len(documents))
    named = {f"{layer}.{number}": best for (layer, number), best in found.items() if best}
    return Examples(windows=len(documents), features=named)


def _example(pieces: Sequence[str], at: int, value: float) -> Example:
    low, high = max(0, at - AROUND), at + 1 + AROUND
    return Example(
        before="…" * (low > 0) + "".join(pieces[low:at]),
        token=pieces[at],
        after="".join(pieces[at + 1 : high]) + "…" * (high < len(pieces)),
        activation=value,
    )
