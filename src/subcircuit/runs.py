"""Run folders: the files of one study, the command that wrote them, and what may be written over. Imports no torch.

`run.yaml` is written before a search begins and again whenever it stops, so that a folder tells what it holds and how
to go on. A family of circuits lies in subfolders (`kl-0.1`, `kl-0.3`, ...), each a run folder by itself.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from subcircuit.errors import DataError, ResourceError, UsageError
from subcircuit.records import CircuitFile

__all__ = ["FILES", "STATE", "Run", "RunFolder"]

SCHEMA = 1
STATE = "search.safetensors"  # of a search that is not finished
FILES = ("run.yaml", "circuit.json", "scores.safetensors", "evidence.json", STATE)
PARTIAL = (*(f"{name}.part" for name in FILES), "search.part")  # what a killed run may leave
MEMBER = "kl-"  # subfolders of a family begin with it

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
        """Make sure that a run may write here, changing nothing yet; returns the run to go on with, if there is one.

        Raises UsageError when the folder holds something that was not to be touched, DataError for a broken `run.yaml`.
        """
        if overwrite and resume:
            raise UsageError("--overwrite and --resume exclude each other", "leave one of them out")
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file, not a folder", "give another --out")
        if overwrite or not self.path.exists() or not any(self.path.iterdir()):
            return None
        if not resume:
            raise UsageError(
                f"{self.path} is not empty",
                "--resume goes on with the run in it, --overwrite replaces that run, or give another --out",
            )
        run = self.read()
        if run is None:
            raise UsageError(f"{self.path} holds no run to go on with", "leave out --resume and give another --out")
        return run

    def clear(self) -> None:
        """Remove what runs write, here and in the subfolders of a family; anything else stays."""
        for folder in [self, *self.members()]:
            for name in (*FILES, *PARTIAL):
                (folder.path / name).unlink(missing_ok=True)
        for folder in self.members():
            if not any(folder.path.iterdir()):
                folder.path.rmdir()

    def member(self, budget: float) -> "RunFolder":
        """The subfolder of one budget."""
        return RunFolder(self.path / f"{MEMBER}{budget:g}")

    def members(self) -> list["RunFolder"]:
        """The subfolders of a family, smallest budget first."""
        found = [path for path in self.path.glob(f"{MEMBER}*") if path.is_dir() and _number(path) is not None]
        return [RunFolder(path) for path in sorted(found, key=lambda path: _number(path) or 0.0)]

    def circuit(self) -> CircuitFile:
        """The circuit's file. Raises DataError when there is none, saying what there is, or it is broken."""
        run = self.read() if not (self.path / "circuit.json").is_file() and self.path.is_dir() else None
        if run is not None:
            raise DataError(
                f"there is no circuit in {self.path} yet: its search is {run.status}",
                "go on with it: the same `subcircuit find` with --resume",
            )
        return CircuitFile.read(self.path)


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
        return float(path.name.removeprefix(MEMBER))
    except ValueError:
        return None
