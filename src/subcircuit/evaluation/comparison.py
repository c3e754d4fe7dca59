"""Runs side by side: their evidence in one table, what makes it incomparable, and every two circuits' overlap.

It reads run folders only; no model is loaded and nothing is measured again. Runs that were not measured alike stay in
one table, under a list of what differs: how far the circuits of two tasks overlap is a question like any other, but
their KL are answers to different ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from subcircuit.circuit import Circuit, Origin, Size
from subcircuit.errors import DataError, UsageError
from subcircuit.evaluation.controls import Evidence
from subcircuit.evaluation.full import FullEvidence
from subcircuit.evaluation.intervals import interval
from subcircuit.evaluation.overlap import Overlap, overlap
from subcircuit.scores import Estimate, Scores

__all__ = ["Comparison", "Difference", "Row", "Together", "compare"]

NONE = "none"


class Record(BaseModel):
    """The root of what a comparison says."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(Record):
    """One run, as far as it has been scored."""

    folder: str
    origin: Origin
    sizes: dict[str, Size]
    verdict: str | None = Field(description="evidence, or no evidence; null where the run has not been scored")
    circuit: Scores | None
    full: Scores | None = Field(description="the full model, on the same prompts")
    random_kl: Estimate | None = Field(description="KL of the best random circuit of the same size")
    controls: int = Field(description="random circuits of the same size")
    cpr: Estimate | None = Field(description="MIB's circuit performance ratio, higher is better; of full.json")
    cmd: Estimate | None = Field(description="MIB's circuit-model distance, 0 is best; of full.json")
    items: str | None = Field(description="kinds that CPR and CMD rank")
    lacks: list[str] = Field(description="what the run has not been asked yet, each with the command that asks it")


class Difference(Record):
    """Something that makes numbers of different runs answers to different questions."""

    what: str = Field(description="model, revision, task, reference, split, prompt pairs, ...")
    values: list[str] = Field(description="in the order of the runs; 'none' where a run has not been scored")


class Together(Record):
    """Two runs."""

    first: str = Field(description="folder")
    second: str = Field(description="folder")
    kl_difference: Estimate | None = Field(
        description="KL of the first minus that of the second, in nats, prompt by prompt; null where the two were not "
        "measured alike"
    )
    kinds: dict[str, Overlap] = Field(description="kinds that both circuits have; edge among them")
    apart: dict[str, str] = Field(description="kinds that one circuit has, and the folder of the one that has not")


class Comparison(Record):
    """`subcircuit compare`."""

    runs: list[Row]
    differences: list[Difference] = Field(description="empty: all runs were measured alike")
    together: list[Together] = Field(description="every two runs")


@dataclass(frozen=True)
class Scored:
    """A run folder that has been read."""

    folder: str
    circuit: Circuit
    evidence: Evidence | None
    full: FullEvidence | None

    @classmethod
    def read(cls, folder: Path) -> "Scored":
        """Raises DataError when a file is missing or broken, or the evidence is of another circuit."""
        circuit = Circuit.load(folder)
        found = Evidence.load(folder) if (folder / "evidence.json").is_file() else None
        more = FullEvidence.load(folder) if (folder / "full.json").is_file() else None
        if found is not None and found.sizes != {str(kind): size for kind, size in circuit.sizes.items()}:
            raise DataError(
                f"{folder / 'evidence.json'} is of another circuit than the folder's: their sizes differ",
                f"run: subcircuit score {folder}",
            )
        return cls(str(folder), circuit, found, more)

    @property
    def curves(self) -> FullEvidence | None:
        """The full evidence, if it is about the same prompts as the table."""
        if self.full is None or self.evidence is None:
            return None
        drawn = [(each.split, each.pairs, each.seed) for each in (self.full, self.evidence)]
        return self.full if drawn[0] == drawn[1] else None


def compare(folders: Sequence[str | Path], *, draws: int = 1000, seed: int = 0, names: bool = False) -> Comparison:
    """Put runs side by side; `names` also names what is in one circuit only, or in both.

    `draws` resamples make an interval. Raises UsageError for fewer than two runs or a run given twice, DataError for a
    folder without a circuit, broken files, and circuits of models of different shapes.
    """
    places = [Path(folder) for folder in folders]
    _require_several(places)
    runs = [Scored.read(place) for place in places]
    return Comparison(
        runs=[_row(run, any(other.full for other in runs)) for run in runs],
        differences=differences(runs),
        together=[_together(a, b, draws, seed, names) for a, b in combinations(runs, 2)],
    )


def differences(runs: Sequence[Scored]) -> list[Difference]:
    """What was not the same for all runs, of all that their numbers depend on besides the circuit."""
    found = []
    for what, read in _SAME.items():
        values = [read(run.circuit.origin) for run in runs]
        found.append(Difference(what=what, values=[_told(value) for value in values]))
    for what, asked in _ASKED.items():
        found.append(
            Difference(what=what, values=[NONE if run.evidence is None else _told(asked(run.evidence)) for run in runs])
        )
    return [each for each in found if len({*each.values} - {NONE}) > 1]


_SAME: dict[str, Callable[[Origin], Any]] = {
    "model": lambda origin: origin.model,
    "revision": lambda origin: origin.revision,
    "dtype": lambda origin: origin.dtype,
    "task": lambda origin: origin.task,
    "task options": lambda origin: dict(sorted(origin.task_options.items())),
    "reference": lambda origin: origin.reference,
}
_ASKED: dict[str, Callable[[Evidence], Any]] = {
    "split": lambda found: found.split,
    "prompt pairs": lambda found: found.pairs,
    "seed of the prompts": lambda found: found.seed,
}


def _row(run: Scored, curves_wanted: bool) -> Row:
    found, more = run.evidence, run.curves
    random = [scores.kl for scores in found.random] if found else []
    return Row(
        folder=run.folder,
        origin=run.circuit.origin,
        sizes={str(kind): size for kind, size in run.circuit.sizes.items()},
        verdict=found.verdict if found else None,
        circuit=found.circuit if found else None,
        full=found.full if found else None,
        random_kl=min(random, key=lambda kl: kl.mean, default=None),
        controls=len(random),
        cpr=more.cpr if more else None,
        cmd=more.cmd if more else None,
        items=more.curves[0].setting.component if more else None,
        lacks=_lacks(run, curves_wanted),
    )


def _lacks(run: Scored, curves_wanted: bool) -> list[str]:
    if run.evidence is None:
        return [f"{run.folder} has no evidence yet: subcircuit score {run.folder}"]
    if run.full is not None and run.curves is None:
        return [f"{run.folder}: full.json is not of evidence.json's prompts: subcircuit score {run.folder} --full"]
    if curves_wanted and run.full is None:
        return [f"{run.folder} has no curves yet: subcircuit score {run.folder} --full"]
    return []


def _together(a: Scored, b: Scored, draws: int, seed: int, names: bool) -> Together:
    sizes = {run.folder: set(run.circuit.sizes) for run in (a, b)}
    here, there = sizes.values()
    return Together(
        first=a.folder,
        second=b.folder,
        kl_difference=_kl_difference(a, b, draws, seed),
        kinds=overlap(a.circuit, b.circuit, draws=draws, seed=seed, names=names),
        apart={str(kind): b.folder if kind in here else a.folder for kind in sorted(here ^ there)},
    )


def _kl_difference(a: Scored, b: Scored, draws: int, seed: int) -> Estimate | None:
    if a.evidence is None or b.evidence is None or differences((a, b)):
        return None
    first, second = (torch.tensor(found.prompts["kl"], dtype=torch.float64) for found in (a.evidence, b.evidence))
    return interval(lambda rows: (first - second)[rows].mean(1), len(first), seed, draws)


def _require_several(places: Sequence[Path]) -> None:
    if len(places) < 2:
        raise UsageError(f"{len(places)} run to compare", "give two or more run folders")
    known: set[Path] = set()
    for place in places:
        if place.resolve() in known:
            raise UsageError(f"{place} is given twice", "give every run once")
        known.add(place.resolve())


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={each}" for name, each in value.items()) or "defaults"
    return str(value)
