"""Shards that need no model, for jobs that import them by name; and a Slurm of one machine, as far as jobs see it."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import torch

from subcircuit.errors import DataError
from subcircuit.shards.work import Inputs, Result, Work

__all__ = ["HERE", "made", "slurm", "squares"]

HERE = Path(__file__).parent  # jobs find this file on PYTHONPATH
NUMBERS = (2, 3, 5, 7)


def squares(diary: Path, power: int = 2) -> Work:
    """Powers of four numbers; every one that is made is written down in `diary`."""
    return Work("squares", _powers, {"power": power}, [{"number": number} for number in NUMBERS], diary)


def made(diary: Path) -> list[int]:
    """The numbers whose powers were made since the last look, sorted."""
    path = diary / "made"
    found = sorted(int(line) for line in path.read_text().split()) if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def _powers(shared: Inputs, diary: Path) -> Callable[[Inputs], Result]:
    def run(piece: Inputs) -> Result:
        number = piece["number"]
        if (diary / f"fail-{number}").exists():
            raise DataError(f"{number} is no number today", "ask tomorrow")
        if (diary / f"die-{number}").exists():
            os._exit(9)
        with (diary / "made").open("a") as lines:
            lines.write(f"{number}\n")
        return {"power": torch.tensor(float(number)) ** shared["power"]}

    return run


def slurm(folder: Path) -> Path:
    """A folder of commands for the PATH: `sbatch` runs its array at once, task by task, and tells what it was given."""
    folder.mkdir()
    write(
        folder / "srun", 'while [[ "$1" == --* ]]; do [[ "$1" == --unbuffered ]] && shift || shift 2; done; exec "$@"'
    )
    write(folder / "sacct", "echo 'JobID|State|NodeList'; echo '7_0|RUNNING|here'; echo '7_1|RUNNING|here'")
    write(folder / "scancel", "exit 0")
    write(
        folder / "sbatch",
        f"""cp "$1" {folder}/submitted
for task in 0 1; do
  export SLURM_JOB_ID=7 SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task SLURM_PROCID=0 SLURM_LOCALID=0
  export SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_JOB_NODELIST=here
  (bash "$1" > {folder}/task-$task 2>&1 &)
done
echo "Submitted batch job 7" """,
    )
    return folder


def write(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
