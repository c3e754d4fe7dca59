"""`subcircuit bench`: methods on models whose circuits are known."""

from typing import Annotated

import typer

from subcircuit import plugins
from subcircuit.cli._progress import shown
from subcircuit.cli._shell import Screen, stoppable
from subcircuit.errors import UnknownName

__all__ = ["ground_truth"]


def ground_truth(
    method: Annotated[
        list[str] | None, typer.Option(help="method (list methods); may be repeated", metavar="M")
    ] = None,
    case: Annotated[list[str] | None, typer.Option(help="case; may be repeated", metavar="C")] = None,
    seed: Annotated[int, typer.Option(help="seed of the prompts and the methods", min=0)] = 0,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress, no notes")] = False,
) -> None:
    """Does a method rank what does something above what does not? Every method on every model whose circuit is known.

    The cases: two heads and three neurons planted in a random model of every decoder family, and programs compiled to
    transformers. AUROC and AUPRC count ties for what they are. Nothing is downloaded.
    """
    methods = method or plugins.names("methods")
    for name in methods:
        if name not in plugins.names("methods"):
            raise UnknownName("method", name, plugins.names("methods"))
    screen = Screen(json=json, quiet=quiet)
    with stoppable(), shown(screen.err, quiet=quiet or json) as progress:
        from subcircuit.cli._benched import Benched, notes, tables
        from subcircuit.ground_truth.bench import run
        from subcircuit.ground_truth.cases import cases

        found = cases(case or [])
        results = []
        for result in run(methods, found, seed=seed):
            results.append(result)
            progress("ground truth", len(results), len(found) * len(methods))
    if json:
        screen.emit(Benched(seed=seed, results=results))
        return
    for table in tables(results):
        screen.out.print(table)
    for note in notes(results):
        screen.out.print(note, style="dim", soft_wrap=True)
