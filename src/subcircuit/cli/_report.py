"""`subcircuit report`: runs as one HTML file that opens anywhere."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from subcircuit.cli._outputs import Reported
from subcircuit.cli._shell import Screen
from subcircuit.errors import UsageError
from subcircuit.graphs.records import GRAPH
from subcircuit.runs import RunFolder

__all__ = ["report"]

CODEBOOK = "codebook.json"  # what `concepts fit` writes


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(help="run folders, one or more, or one attribution graph's or codebook's", metavar="DIR ..."),
    ],
    circuit: Annotated[Path | None, typer.Option(help="of a codebook: the run whose nodes to mark")] = None,
    out: Annotated[Path | None, typer.Option(help="file to write; by default report.html in the first folder")] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Write runs as one HTML file: evidence, the circuit at every size, edges, prompts, provenance; or an attribution
    graph; or a codebook's concepts. No model is loaded.

    The file needs no server, no network and no other file. Several runs can be compared in it.
    """
    if circuit is not None:
        RunFolder(circuit).circuit()
    if not any((folder / name).is_file() for folder in folders for name in (GRAPH, CODEBOOK)):
        for folder in folders:
            RunFolder(folder).circuit()
    place = out or folders[0] / "report.html"
    if place.is_dir():
        raise UsageError(f"{place} is a folder", "give --out a file name, for example report.html")
    from subcircuit.report import report as written

    text = written(*(str(folder) for folder in folders), circuit=str(circuit) if circuit else None)
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f"{place.name}.part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, place)
    screen = Screen(json=json)
    if json:
        screen.emit(Reported(file=str(place), bytes=place.stat().st_size, runs=[str(folder) for folder in folders]))
    else:
        screen.out.print(f"{escape(str(place))} ({place.stat().st_size / 1e6:.2f} MB)", soft_wrap=True)
