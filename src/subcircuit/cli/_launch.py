"""Options that say where shards of the work are run, for the verbs that have some. Imports no torch."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from subcircuit.shards.launcher import Launcher

__all__ = ["LAUNCH", "SHARDED", "launcher_of", "taken"]

SHARDED = ("activation-patching",)  # methods that are cut into shards
FOLDER = "shards"  # in a run folder
PANEL = "Shards"


def _keyword(name: str, kind: type, default: Any, told: str, least: int | None = None) -> inspect.Parameter:
    option = typer.Option(f"--{name.replace('_', '-')}", help=told, min=least, rich_help_panel=PANEL)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


LAUNCH: Sequence[inspect.Parameter] = (
    _keyword("launcher", str, "here", "where parts that need nothing of each other are run: here, local or slurm"),
    _keyword("jobs", int, 2, "local, slurm: jobs at a time, each with the model in memory", 1),
    _keyword("job_minutes", int, 60, "local, slurm: after which a job is ended", 1),
    _keyword("slurm_partition", str, "", "slurm: the partition; by default the cluster's own"),
    _keyword("slurm_gpus", int, 0, "slurm: cards of a job", 0),
)


def taken(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a launcher, taken out of all that a verb was given."""
    return {each.name: options.pop(each.name) for each in LAUNCH if each.name in options}


def launcher_of(folder: Path, device: str, launch: dict[str, Any]) -> "Launcher":
    """Where shards of a run folder's work go. Raises as Launcher does."""
    from subcircuit.shards.launcher import Launcher

    return Launcher(
        folder / FOLDER,
        launch["launcher"],
        jobs=launch["jobs"],
        device=device,
        minutes=launch["job_minutes"],
        partition=launch["slurm_partition"],
        gpus=launch["slurm_gpus"],
    )
