"""Where shards are run: in this process or those it shares with, in others on this machine, or in jobs of Slurm.

Wherever they are run, their results lie in a folder, and a shard that has one is not run again.
"""

import importlib.util
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from subcircuit.errors import MissingExtra, ResourceError, UnknownName, UsageError
from subcircuit.parallel.group import apart, count, first_says, of_one, rank, require_same
from subcircuit.parallel.place import started
from subcircuit.shards.jobs import on_cluster, on_this_machine, wait
from subcircuit.shards.store import Store
from subcircuit.shards.work import Inputs, Result, Shard, Work

if TYPE_CHECKING:
    from submitit import Job

__all__ = ["Launcher", "Place"]

Place = Literal["here", "local", "slurm"]


@dataclass(frozen=True)
class Launcher:
    """Runs shards and keeps their results below `folder`.

    Raises UnknownName for another place, UsageError for numbers that make no sense, MissingExtra without submitit, and
    ResourceError where there is no Slurm.
    """

    folder: Path  # jobs of a cluster must see it too
    place: str = "here"
    jobs: int = 2  # among which the shards are dealt; each loads the model
    device: str = "auto"  # of the jobs
    minutes: int = 60  # after which a job is ended
    partition: str = ""  # of Slurm; empty = the cluster's default
    gpus: int = 0  # of a job of Slurm

    def __post_init__(self) -> None:
        if self.place not in get_args(Place):
            raise UnknownName("launcher", self.place, get_args(Place))
        if self.place != "slurm" and (self.partition or self.gpus):
            raise UsageError(
                f"a partition or gpus of Slurm, with launcher {self.place}", "leave them out, or use launcher slurm"
            )
        if self.jobs < 1 or self.minutes < 1 or self.gpus < 0:
            raise UsageError(
                f"{self.jobs} jobs of {self.minutes} minutes with {self.gpus} gpus",
                "give at least one job and one minute, and no gpus or some",
            )
        if self.place == "here":
            return
        if started() > 1:
            raise UsageError(
                f"launcher {self.place} in {started()} processes that share every pass already",
                "start the command in one process, or use launcher here",
            )
        if importlib.util.find_spec("submitit") is None:
            raise MissingExtra(f"launcher {self.place}", "cluster")
        if self.place == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
            raise ResourceError(
                "there is no Slurm on this machine: no sbatch and srun are on the PATH",
                "start the command on a login node of the cluster, or use launcher local",
            )

    def run(self, work: Work, here: Callable[[Inputs], Result], tell: Callable[[], None]) -> list[Result]:
        """The results of all pieces, in their order.

        Args:
            here: makes a piece's result in this process, by what is already in memory.
            tell: called for every piece that `here` does not run, when its result is there.

        Raises ResourceError when a job fails. What was done until then is kept, whatever the error.
        """
        if count() > 1:
            return self._shared(work, here, tell)
        store = Store((self.folder / work.name).resolve())
        store.begin(work)
        kept = {shard.key: result for shard in work.shards if (result := store.load(shard)) is not None}
        for _ in kept:
            tell()
        missing = [shard for shard in work.shards if shard.key not in kept]
        if self.place == "here":
            for shard in missing:
                store.save(shard, here(shard.inputs))
        elif missing:
            wait(self._started(work, missing, store), store, missing, tell)
        kept |= {shard.key: result for shard in missing if (result := store.load(shard)) is not None}
        store.tidy()
        return [kept[shard.key] for shard in work.shards]

    def _shared(self, work: Work, here: Callable[[Inputs], Result], tell: Callable[[], None]) -> list[Result]:
        """The same in several processes, dealt in turns. Only the first one reads and writes the folder."""
        require_same({**work.shared, "pieces": len(work.pieces)})
        store, first = Store((self.folder / work.name).resolve()), rank() == 0
        kept: dict[str, Result] = {}
        if first:
            store.begin(work)
            kept = {shard.key: result for shard in work.shards if (result := store.load(shard)) is not None}
        found = {key: of_one(kept.get(key, {}), 0) for key in json.loads(first_says(json.dumps([*kept])))}
        for _ in found:
            tell()
        missing = [shard for shard in work.shards if shard.key not in found]
        for start in range(0, len(missing), count()):
            turn = missing[start : start + count()]
            mine = turn[rank() : rank() + 1]  # none, where fewer are left than there are processes
            with apart():
                own = here(mine[0].inputs) if mine else {}
            for teller, shard in enumerate(turn):
                found[shard.key] = of_one(own, teller)
                if teller != rank():
                    tell()
                if first:
                    store.save(shard, found[shard.key])
        if first:
            store.tidy()
        return [found[shard.key] for shard in work.shards]

    def _started(self, work: Work, shards: Sequence[Shard], store: Store) -> "list[Job[None]]":
        if self.place == "local":
            return on_this_machine(work, shards, store.folder, self.jobs, self.minutes)
        return on_cluster(work, shards, store.folder, self.jobs, self.minutes, self.partition, self.gpus)
