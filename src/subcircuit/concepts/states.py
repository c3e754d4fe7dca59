"""Hidden states of the words of many texts, on disk: half precision, memory-mapped, with an index.

A folder holds `states.json` (what was asked for), `texts.jsonl`, `index.parquet` (one row a state: its text, word,
position) and `layer-N/00000.npy`, ... A shard is written beside its place and moved there, so one that is there is
whole, and a harvest that was stopped goes on.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from subcircuit.concepts.framing import Frame
from subcircuit.concepts.index import SENTENCE, Index
from subcircuit.concepts.texts import Corpus
from subcircuit.concepts.vectors import Vectors
from subcircuit.errors import DataError, UsageError
from subcircuit.files import atomically, load_record, save_record

__all__ = ["HarvestRecord", "Precision", "States", "begin", "save", "shard_path"]

INDEX = "index.parquet"
Precision = Literal["float16", "float32"]


class HarvestRecord(BaseModel):
    """`states.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    revision: str
    dtype: str = Field(description="of the model's weights")
    layers: list[int] = Field(description="the residual stream that enters these layers; the last: that leaves it")
    width: int
    frame: Frame
    texts: int
    labels: list[str] | None = Field(description="that the texts have, sorted; null where they have none")
    digest: str = Field(description="sha256 of texts and labels")
    per_word: int
    least: int
    precision: Precision
    seed: int
    shards: list[int] = Field(description="states of each shard")


@dataclass(frozen=True)
class States:
    """A harvest, read from its folder; the states themselves stay there."""

    folder: Path
    record: HarvestRecord
    index: Index
    corpus: Corpus

    @classmethod
    def load(cls, folder: Path) -> "States":
        """Raises DataError for a folder that is none, or whose harvest has not come to its end; MissingExtra."""
        record = _recorded(folder)
        paths = [shard_path(folder, layer, n) for layer in record.layers for n in range(len(record.shards))]
        missing = [path for path in paths if not path.exists()]
        if missing:
            raise DataError(
                f"the harvest in {folder} is not finished: {len(missing)} of {len(paths)} shards are missing",
                "start it again as before; it goes on where it stopped",
            )
        rows = [json.loads(line) for line in (folder / "texts.jsonl").read_text(encoding="utf-8").splitlines()]
        labels = tuple(row["label"] for row in rows) if record.labels else None
        return cls(folder, record, Index.read(folder / INDEX), Corpus(tuple(row["text"] for row in rows), labels))

    def __len__(self) -> int:
        return len(self.index)

    def vectors(self, layer: int, *, sentences: bool = False) -> Vectors:
        """The words' states at a layer, or the ones at judged positions, never both. Raises UsageError."""
        if layer not in self.record.layers:
            raise UsageError(f"layer {layer} was not harvested", f"there are: {self.record.layers}")
        rows = np.flatnonzero((self.index.word == SENTENCE) == sentences)
        if not len(rows):
            raise DataError(f"no word occurs {self.record.least} times or more", "give more text, or --least 1")
        parts = [np.load(shard_path(self.folder, layer, n), mmap_mode="r") for n in range(len(self.record.shards))]
        return Vectors(parts, rows, self.index.text[rows], self.index.place[rows])


def begin(folder: Path, record: HarvestRecord, corpus: Corpus, index: Index) -> None:
    """Write what is asked for, or see that the folder was begun with the same."""
    path = folder / "states.json"
    if path.exists():
        before = _recorded(folder)
        old, new = _flat(before), _flat(record)
        changed = [name for name in new if old.get(name) != new[name]]
        if changed:
            first = [name for name in changed if name != "shards"] or changed  # shards follow from the others
            what = ", ".join(f"{name}: {old.get(name)} -> {new[name]}" for name in first)
            raise UsageError(f"{folder} holds other states ({what})", "give another folder, or remove this one")
        return
    folder.mkdir(parents=True, exist_ok=True)
    labels: Sequence[str | None] = corpus.labels or [None] * len(corpus)
    lines = (json.dumps({"text": t, "label": lb}) + "\n" for t, lb in zip(corpus.texts, labels, strict=True))
    atomically(folder / "texts.jsonl", lambda to: to.write_text("".join(lines), encoding="utf-8"))
    atomically(folder / INDEX, index.write)
    save_record(record, path)


def _flat(record: HarvestRecord) -> dict[str, Any]:
    """Its fields, the frame's among them."""
    values = record.model_dump()
    return values | {f"frame.{name}": value for name, value in values.pop("frame").items()}


def _recorded(folder: Path) -> HarvestRecord:
    maker = "give a folder that `concepts fit` wrote"
    return load_record(HarvestRecord, folder / "states.json", "a harvest", missing=maker, broken="harvest again")


def shard_path(folder: Path, layer: int, number: int) -> Path:
    return folder / f"layer-{layer}" / f"{number:05}.npy"


def save(states: NDArray[Any], path: Path) -> None:
    with path.open("wb") as file:  # by name, numpy would add a suffix
        np.save(file, states)
