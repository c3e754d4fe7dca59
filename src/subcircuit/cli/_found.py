"""What a search has found, told from the run folder: to people, as JSON, and by the exit code. Imports no torch."""

import shlex
from collections.abc import Iterable, Mapping
from typing import Literal

import typer
from rich.markup import escape
from rich.table import Table

from subcircuit.cli._outputs import Found, FoundCircuit
from subcircuit.cli._shell import Screen, trouble
from subcircuit.errors import BudgetNotMet
from subcircuit.records import CircuitFile, Origin, missed
from subcircuit.runs import RunFolder

__all__ = ["circuits_of", "report", "status"]


def circuits_of(folder: RunFolder) -> list[tuple[RunFolder, CircuitFile]]:
    """The circuits of a finished run, smallest budget first. Raises DataError when they are not there."""
    return [(each, each.circuit()) for each in folder.members() or [folder]]


def status(origins: Iterable[Origin]) -> Literal["finished", "budget-not-met"]:
    """How a search ended that gave these circuits."""
    return "budget-not-met" if any(missed(origin.result) for origin in origins) else "finished"


def report(folder: RunFolder, screen: Screen) -> None:
    """Tell what the folder holds now. Exit code 7 where a budget is not met."""
    circuits = circuits_of(folder)
    origin = circuits[0][1].origin
    error = _not_met(circuits)
    run = folder.read()
    found = Found(
        folder=str(folder.path),
        status="budget-not-met" if error else "finished",
        model=origin.model,
        revision=origin.revision,
        task=origin.task,
        method=origin.method,
        seconds=run.seconds if run else origin.seconds,
        circuits=[
            FoundCircuit(
                folder=str(each.path),
                kl=file.origin.result["kl"],
                budget=file.origin.result.get("budget"),
                sizes=file.sizes,
            )
            for each, file in circuits
        ],
        error=trouble(error) if error else None,
    )
    if screen.json:
        screen.emit(found)
    else:
        _print(found, screen)
    if error:
        screen.complain(error)
        raise typer.Exit(error.exit_code)


def _not_met(circuits: list[tuple[RunFolder, CircuitFile]]) -> BudgetNotMet | None:
    bad = [(each.path, file.origin.result) for each, file in circuits if missed(file.origin.result)]
    if not bad:
        return None
    told = "; ".join(f"{_distance(result)}, in {path}" for path, result in bad)
    steps = circuits[0][1].origin.settings.get("steps")
    return BudgetNotMet(
        f"the best circuit found does not keep to its budget ({told}, saved all the same)",
        f"give it more --steps{f' than {steps}' if steps else ''}, or a larger --kl, --budgets or --size",
    )


def _distance(result: Mapping[str, float]) -> str:
    if "size" in result:
        return f"{result['cost']:.3g} of the cost for a size of {result['size']:.3g}"
    return f"KL {result['kl']:.3g} for a budget of {result['budget']:.3g}"


def _print(found: Found, screen: Screen) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("circuit in")
    for column in ("KL", "budget", *found.circuits[0].sizes):
        table.add_column(column, justify="right")
    for each in found.circuits:
        budget = "-" if each.budget is None else f"{each.budget:g}"
        sizes = (f"{size.kept}/{size.total}" for size in each.sizes.values())
        table.add_row(escape(each.folder), f"{each.kl:.3f}", budget, *sizes)
    screen.out.print(table)
    if not screen.quiet:
        screen.err.print(f"score it: subcircuit score {escape(shlex.quote(found.folder))}", style="dim", soft_wrap=True)
