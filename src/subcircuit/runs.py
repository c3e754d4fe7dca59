"""Run folders: the files of one study, the command that wrote them, and what may be written over. Imports no torch.

`run.yaml` is written before a search begins and again whenever it stops, so that a folder tells what it holds and how
to go on. A family of circuits lies in subfolders (`kl-0.1`, `kl-0.3`, ...), each a run folder by itself.

A run that is to be replaced waits in a hidden subfolder until the new one has saved something. Files belong to the
earlier run as long as they are in it, so that a kill at any moment loses neither.
"""

import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from subcircuit.errors import DataError, ResourceError, UsageError
from subcircuit.records import CircuitFile

__all__ = ["FILES", "STATE", "Run", "RunFolder"]

log = logging.getLogger(__name__)

SCHEMA = 1
STATE = "search.safetensors"  # of a search that is not finished
FILES = (
    *("run.yaml", "circuit.json", "scores.safetensors", "evidence.json", "full.json", "tokens.json"),
    "budgets.json",
    *("positions.safetensors", "report.html", STATE),
)
PARTIAL = (*(f"{name}.part" for name in FILES), "search.part")  # what a killed run may leave
MEMBERS = ("kl-", "k-")  # subfolders of a family begin so: a budget of KL, or a number of components
ASIDE = ".replaced"  # holds the whole earlier run, until the new one has saved something
MOVING = ".replaced.part"  # holds the files of a run that is on its way into ASIDE, or back

Status = Literal["running", "interrupted", "failed", "finished", "budget-not-met"]


class Run(BaseModel):
    """`run.yaml`: the command with every default filled in, and how it went."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA
    verb: str = "find"
    method: str
    settings: dict[str, Any] = Field(description="every setting of the method")
    model: str
    revision: str = Field(description="commit or sha256 of the weights")
    dtype: str
    device: str
    task: str
    task_options: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str]
    started: str = Field(description="ISO 8601, UTC")
    seconds: float = Field(0.0, description="wall-clock time, resumed parts added up, loading included")
    status: Status = Field("running", description="a search that was killed still says running")

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.status in ("finished", "budget-not-met")

    def require_same(self, wanted: Mapping[str, Any]) -> None:
        """Raise UsageError, showing every difference, when this run was started with other values than `wanted`."""
        before, after = _flat(self.model_dump(include=set(wanted))), _flat(wanted)
        changed = sorted(key for key in {**before, **after} if before.get(key) != after.get(key))
        if changed:
            what = ", ".join(f"{key}: {before.get(key)} -> {after.get(key)}" for key in changed)
            raise UsageError(
                f"the run was started with other values ({what})",
                "resume with the values it was started with, or give another --out",
            )


@dataclass(frozen=True)
class RunFolder:
    """A folder that holds a run, or will."""

    path: Path

    def read(self) -> Run | None:
        """The folder's run, or None where there is none. Raises DataError when `run.yaml` cannot be read as one."""
        path = self.path / "run.yaml"
        try:
            return Run.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (yaml.YAMLError, ValidationError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is not the record of a run: {error}", "start again with --overwrite") from error

    def write(self, run: Run) -> None:
        """Replace `run.yaml` as a whole; the folder is made where it is missing. Raises ResourceError."""
        partial = self.path / "run.yaml.part"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            partial.write_text(yaml.safe_dump(run.model_dump(), sort_keys=False, allow_unicode=True), encoding="utf-8")
            os.replace(partial, self.path / "run.yaml")
        except OSError as error:
            raise ResourceError(f"{self.path} cannot be written to: {error.strerror}", "give another --out") from error

    def claim(self, *, overwrite: bool = False, resume: bool = False) -> Run | None:
        """Make sure that a run may write here; returns the run to go on with, if there is one.

        Nothing is changed, but that the run to go on with comes back when a kill has left it aside.

        Raises UsageError when the folder holds something that was not to be touched, DataError for a broken `run.yaml`.
        """
        if overwrite and resume:
            raise UsageError("--overwrite and --resume exclude each other", "leave one of them out")
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file, not a folder", "give another --out")
        if overwrite or not self.path.exists() or all(path.name in PARTIAL for path in self.path.iterdir()):
            return None
        if not resume:
            raise UsageError(
                f"{self.path} is not empty",
                "--resume goes on with the run in it, --overwrite replaces that run, or give another --out",
            )
        self.settle()
        run = self.read()
        if run is None:
            raise UsageError(f"{self.path} holds no run to go on with", "leave out --resume and give another --out")
        return run

    def clear(self) -> None:
        """Remove what runs write, here and in the subfolders of a family; anything else stays."""
        for path in self._files():
            path.unlink()
        self._remove_empty()

    def set_aside(self) -> None:
        """Take what an earlier run wrote out of the way until `settle`; anything else stays."""
        self.settle()
        files = self._files()
        if files:
            _move(files, self.path, self.path / MOVING)
            os.replace(self.path / MOVING, self.path / ASIDE)
            self._remove_empty()

    def tidy(self) -> None:
        """Remove what a run needs only until it ends, and what a kill has left half-written."""
        for name in (STATE, *PARTIAL):
            (self.path / name).unlink(missing_ok=True)

    def settle(self) -> bool:
        """End a replacement, if one is under way: the earlier run goes for good where the new one has saved something.

        Else it comes back, and the answer is True.
        """
        aside, moving = self.path / ASIDE, self.path / MOVING
        if aside.is_dir():
            if (self.path / STATE).exists() or (self.path / "circuit.json").exists():
                shutil.rmtree(aside)
                return False
            self.clear()
            os.replace(aside, moving)
        if not moving.is_dir():
            return False
        _move([path for path in moving.rglob("*") if path.is_file()], moving, self.path)
        shutil.rmtree(moving)
        log.info("the earlier run in %s is as it was", self.path)
        return True

    def member(self, budget: float, of: str = "kl") -> "RunFolder":
        """The subfolder of one budget of KL, or of k components."""
        return RunFolder(self.path / f"{of}-{budget:g}")

    def members(self) -> list["RunFolder"]:
        """The subfolders of a family that hold a run, smallest budget first."""
        return [RunFolder(path) for path in self._subfolders() if (path / "run.yaml").is_file()]

    def circuit(self) -> CircuitFile:
        """The circuit's file. Raises DataError when there is none, saying what there is, or it is broken."""
        run = self.read() if not (self.path / "circuit.json").is_file() and self.path.is_dir() else None
        if run is not None:
            raise DataError(
                f"there is no circuit in {self.path} yet: its search is {run.status}",
                "go on with it: the same `subcircuit find` with --resume",
            )
        return CircuitFile.read(self.path)

    def _subfolders(self) -> list[Path]:
        near = (path for prefix in MEMBERS for path in self.path.glob(f"{prefix}*"))
        found = [path for path in near if path.is_dir() and _number(path) is not None]
        return sorted(found, key=lambda path: _number(path) or 0.0)

    def _files(self) -> list[Path]:
        """What runs have written here and in the subfolders of a family."""
        places = [folder / name for folder in (self.path, *self._subfolders()) for name in (*FILES, *PARTIAL)]
        return [path for path in places if path.is_file()]

    def _remove_empty(self) -> None:
        for folder in self._subfolders():
            if not any(folder.iterdir()):
                folder.rmdir()


def _move(files: Iterable[Path], source: Path, target: Path) -> None:
    for path in files:
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, place)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings under dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": each for inner, each in value.items()}
        else:
            flat[key] = value
    return flat


def _number(path: Path) -> float | None:
    try:
        return float(path.name.partition("-")[2])
    except ValueError:
        return None
