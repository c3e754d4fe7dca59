"""Results of shards in a folder: a safetensors file each, named by the shard's key, and a manifest of them all.

A file is written beside its place and moved there, so that what has the name of a result is whole. Two processes that
make the same one do no harm.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from subcircuit.errors import ResourceError
from subcircuit.files import save_record
from subcircuit.records import versions
from subcircuit.shards.work import Result, Shard, Work, source

__all__ = ["JOBS", "Entry", "Manifest", "Store"]

log = logging.getLogger(__name__)

SCHEMA = 1
JOBS = "jobs"  # what the jobs themselves write: their logs, until all results are there


class Entry(BaseModel):
    """One shard."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str = Field(description="hash of all that its numbers depend on; its result is KEY.safetensors")
    inputs: dict[str, Any] = Field(description="those that it does not share with the others")


class Manifest(BaseModel):
    """`manifest.json`: which shards a command has asked for, and what they depend on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA
    function: str = Field(description="what each of them runs")
    shared: dict[str, Any] = Field(description="inputs of all of them; long ones as digests")
    source: str = Field(description="hash of the library's source")
    versions: dict[str, str]
    shards: list[Entry]


@dataclass(frozen=True)
class Store:
    """The folder of one kind of shards."""

    folder: Path

    def begin(self, work: Work) -> None:
        """Write the manifest, and remove results that it does not name. Raises ResourceError."""
        entries = [Entry(key=shard.key, inputs=dict(shard.inputs)) for shard in work.shards]
        manifest = Manifest(
            function=work.function,
            shared=json.loads(json.dumps(dict(work.shared), default=str)),
            source=source(),
            versions=versions(),
            shards=entries,
        )
        save_record(manifest, self.folder / "manifest.json")
        wanted = {entry.key for entry in entries}
        for path in self.folder.glob("*.safetensors"):
            if path.stem not in wanted:
                path.unlink(missing_ok=True)

    def missing(self, shards: Iterable[Shard]) -> list[Shard]:
        """Those that have no result yet."""
        with suppress(OSError):  # a network file system may show an old listing until the folder changes
            self.folder.chmod(self.folder.stat().st_mode)
        there = {path.stem for path in self.folder.glob("*.safetensors")}
        return [shard for shard in shards if shard.key not in there]

    def save(self, shard: Shard, result: Result) -> None:
        """Keep a shard's result. Raises ResourceError."""
        partial = self.folder / f"{shard.key}.{uuid4().hex}.part"  # a name of its own: another job may write it too
        try:
            save_file({name: value.detach().cpu().contiguous() for name, value in result.items()}, partial)
            os.replace(partial, self._place(shard))
        except SafetensorError as error:
            raise ResourceError(f"{self.folder} cannot be written to: {error}", "check the disk") from error
        finally:
            partial.unlink(missing_ok=True)

    def load(self, shard: Shard) -> Result | None:
        """A shard's result; None where there is none, or none that can be read."""
        try:
            return load_file(self._place(shard))
        except FileNotFoundError:
            return None
        except SafetensorError as error:
            log.warning("%s cannot be read and is made again: %s", self._place(shard), error)
            self._place(shard).unlink(missing_ok=True)
            return None

    def tidy(self) -> None:
        """Remove what jobs leave besides results."""
        shutil.rmtree(self.folder / JOBS, ignore_errors=True)
        for path in self.folder.glob("*.part"):
            path.unlink(missing_ok=True)

    def _place(self, shard: Shard) -> Path:
        return self.folder / f"{shard.key}.safetensors"
