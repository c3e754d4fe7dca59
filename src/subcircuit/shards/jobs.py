"""Shards in jobs of submitit: processes on this machine, or an array of jobs of a Slurm cluster.

A job begins the work once, which loads the model, and goes through its share of the shards; each result is there as
soon as its shard is done. Functions and arguments reach a job in submitit's own files, which lie beside the jobs' logs
and go with them.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from subcircuit.errors import ResourceError
from subcircuit.shards.store import JOBS, Store
from subcircuit.shards.work import Begin, Inputs, Shard, Work

if TYPE_CHECKING:
    from submitit import Job

__all__ = ["on_cluster", "on_this_machine", "perform", "wait"]

EVERY = 0.2  # seconds between looks for results
BREAK = "-" * 22  # what submitit puts around a traceback


def perform(begin: Begin, shared: Inputs, given: Any, shards: Sequence[Shard], folder: Path, threads: int) -> None:
    """What one job does: its shards one after the other. `threads` of torch; 0 = as many as it takes by itself."""
    if threads:
        torch.set_num_threads(threads)
    run, store = begin(shared, given), Store(folder)
    for shard in store.missing(shards):
        store.save(shard, run(shard.inputs))


def on_this_machine(work: Work, shards: Sequence[Shard], folder: Path, jobs: int, minutes: int) -> "list[Job[None]]":
    """Start processes, each with a share of the cores and, where there are some, a card of its own."""
    from submitit import LocalExecutor

    started: list[Job[None]] = []
    cards, shares = _cards(), _dealt(shards, jobs)
    threads = max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // len(shares)))
    for number, share in enumerate(shares):
        executor = LocalExecutor(folder=folder / JOBS)
        card = [cards[number % len(cards)]] if cards else []
        executor.update_parameters(timeout_min=minutes, gpus_per_node=len(card), visible_gpus=card)
        started.append(executor.submit(perform, work.begin, work.shared, work.given, share, folder, threads))
    return started


def on_cluster(
    work: Work, shards: Sequence[Shard], folder: Path, jobs: int, minutes: int, partition: str, gpus: int
) -> "list[Job[None]]":
    """Submit an array of jobs. Raises ResourceError when Slurm does not take it."""
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = SlurmExecutor(folder=folder / JOBS)
    asked: dict[str, Any] = {"job_name": f"subcircuit-{work.name}", "time": minutes, "array_parallelism": jobs}
    asked |= ({"partition": partition} if partition else {}) | ({"gpus_per_node": gpus} if gpus else {})
    executor.update_parameters(**asked)
    try:
        with executor.batch():
            started = [
                executor.submit(perform, work.begin, work.shared, work.given, share, folder, 0)
                for share in _dealt(shards, jobs)
            ]
    except (FailedJobError, FailedSubmissionError) as error:
        raise ResourceError(
            f"Slurm does not take the jobs: {' '.join(str(error).split())}",
            "check --slurm-partition, --slurm-gpus and --job-minutes against sinfo",
        ) from error
    return started


def wait(started: "Sequence[Job[None]]", store: Store, shards: Sequence[Shard], tell: Callable[[], None]) -> None:
    """Until all jobs have ended; `tell` is called for each result as it comes.

    Raises ResourceError when one has ended without its results; what the others have made is kept. Jobs that still run
    when this is left, by Ctrl-C say, are cancelled.
    """
    told = 0
    try:
        while True:
            ended = all(job.done() for job in started)
            done = len(shards) - len(store.missing(shards))
            for _ in range(done - told):
                tell()
            told = max(told, done)
            if ended:
                break
            time.sleep(EVERY)
    finally:
        for job in started:
            if not job.done():
                job.cancel(check=False)
    if left := store.missing(shards):
        raise _failure(started, f"{len(left)} of {len(shards)} shards have no result")


def _dealt(shards: Sequence[Shard], jobs: int) -> list[Sequence[Shard]]:
    """In turns, so that shares take as long where shards grow."""
    return [shards[start::jobs] for start in range(min(jobs, len(shards)))]


def _cards() -> list[int]:
    """Numbers of this machine's cards, as many as this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in visible.split(",")]
    return [int(name) for name in names] if all(map(str.isdigit, names)) else list(range(torch.cuda.device_count()))


def _failure(started: "Sequence[Job[None]]", what: str) -> ResourceError:
    """The first failed job's own words, and where its log is."""
    from submitit.core.utils import FailedJobError

    again = "the same command again runs only these"
    for job in started:
        if (error := job.exception()) is not None:
            spoke = isinstance(error, FailedJobError)
            said = f"failed: {_last_words(str(error))}" if spoke else f"ended without a word (state: {job.state})"
            return ResourceError(f"{what}: job {job.job_id} {said}", f"{again}; the job's log is {job.paths.stderr}")
    return ResourceError(f"{what}, and no job tells why", f"{again}; was their folder emptied meanwhile?")


def _last_words(error: str) -> str:
    """The line below the traceback that submitit hands on."""
    lines = error.split(BREAK)[1].strip().splitlines()
    last = max((number for number, line in enumerate(lines) if line.startswith("  ")), default=-1)
    return lines[min(last + 1, len(lines) - 1)]
