"""`subcircuit compare`: runs side by side, from their files alone."""

from pathlib import Path
from typing import Annotated

import typer

from subcircuit.cli._shell import Screen
from subcircuit.errors import UsageError
from subcircuit.runs import RunFolder

__all__ = ["compare"]


def compare(
    folders: Annotated[list[Path], typer.Argument(help="run folders, two or more", metavar="DIR DIR ...")],
    nodes: Annotated[bool, typer.Option("--nodes", help="name what either circuit alone or both of them keep")] = False,
    resamples: Annotated[int, typer.Option(help="resamples behind an interval", min=1)] = 1000,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Compare runs: their evidence in one table, and how far every two circuits overlap. No model is loaded.

    What makes runs incomparable (another model, task, reference, split or number of prompts) is named above the table.
    The overlap comes kind by kind: what either circuit alone and both keep, Jaccard beside what chance would give, and
    the rank correlation of scores.
    """
    if len(folders) < 2:
        raise UsageError(f"{folders[0]} is one run, and comparing takes two", "give two or more run folders")
    for folder in folders:
        RunFolder(folder).circuit()
    screen = Screen(json=json)
    from subcircuit.cli._compared import report
    from subcircuit.evaluation.comparison import compare as side_by_side

    found = side_by_side(folders, draws=resamples, names=nodes)
    if json:
        screen.emit(found)
    else:
        report(found, screen)
