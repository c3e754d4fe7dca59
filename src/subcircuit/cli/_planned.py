"""A plan as a table, as JSON, and as an exit code."""

from typing import TYPE_CHECKING

import typer
from pydantic import Field
from rich.table import Table

from subcircuit.cli._outputs import Output, Trouble
from subcircuit.cli._shell import Screen, trouble
from subcircuit.errors import ResourceError
from subcircuit.planning.estimate import Estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Planned", "tell", "told_time"]

WORDS = {
    "process": "the process itself",
    "weights": "weights",
    "references": "reference activations, kept",
    "recorded": "activations, recorded",
    "activations": "activations of a pass",
    "logits": "logits of a pass",
    "tables": "tables of logits and sums",
}


class Planned(Output):
    """`subcircuit plan`."""

    plan: Estimate
    error: Trouble | None = Field(None, description="where it does not fit")


def tell(found: Estimate, screen: Screen) -> None:
    """Print a plan. Exit code 4 where it does not fit."""
    error = None if found.fits else _short(found)
    if screen.json:
        screen.emit(Planned(plan=found, error=trouble(error) if error else None))
    else:
        screen.out.print(_table(found))
        for line in _lines(found):
            screen.out.print(line, soft_wrap=True, markup=False)
    if error:
        screen.complain(error)
        raise typer.Exit(error.exit_code)


def told_time(seconds: "Sequence[float]") -> str:
    """An interval in the unit that suits its upper end."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds[1] >= 2 * length:
            return f"{seconds[0] / length:.2g} to {seconds[1] / length:.2g} {unit}"
    return f"{seconds[0]:.2g} to {seconds[1]:.2g} seconds"


def _table(found: Estimate) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(f"memory at its dearest moment ({found.moment})")
    table.add_column("GB", justify="right")
    for name, value in found.parts.items():
        table.add_row(WORDS.get(name, name), f"{value / 2**30:.2f}")
    table.add_row("together", f"{found.peak / 2**30:.2f}", style="bold")
    table.add_row(f"free on {found.device}" + _shared(found), f"{found.memory / 2**30:.2f}")
    return table


def _shared(found: Estimate) -> str:
    return f", for each of {found.processes} processes" if found.processes > 1 and found.device == "cpu" else ""


def _lines(found: Estimate) -> list[str]:
    source = "from one measured step" if found.measured else "from assumed speeds, not measured"
    lines = [
        f"time: {told_time(found.seconds)}, {source}",
        f"disk: {found.disk / 2**20:.0f} MB of {found.disk_free / 2**30:.0f} GB",
        *found.about,
    ]
    return [*lines, "it fits"] if found.fits else lines


def _short(found: Estimate) -> ResourceError:
    if found.peak > found.memory:
        message = f"{found.peak / 2**30:.1f} GB of memory are needed, and {found.memory / 2**30:.1f} GB are free"
    else:
        message = f"{found.disk / 2**30:.1f} GB of disk are needed, and {found.disk_free / 2**30:.1f} GB are free"
    return ResourceError(message, f"what would fit: {', or '.join(found.options)}" if found.options else "")
