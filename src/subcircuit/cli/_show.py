"""`subcircuit show`: what a circuit is, from `circuit.json` alone."""

from json import loads
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from subcircuit.cli._outputs import Shown
from subcircuit.cli._shell import Screen
from subcircuit.drawing import draw
from subcircuit.errors import DataError, UnknownName
from subcircuit.runs import RunFolder
from subcircuit.sites import ONE_UNIT, Kind, Node, Site

__all__ = ["show"]

GRID = (Kind.HEAD, Kind.KV)  # few units: drawn one by one
KEPT, CLOSED = "■", "·"


def show(
    folder: Annotated[Path, typer.Argument(help="run folder", metavar="DIR")],
    kind: Annotated[str | None, typer.Option(help="name the kept nodes of one kind, e.g. head")] = None,
    svg: Annotated[Path | None, typer.Option(help="also draw it into this file", metavar="FILE")] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """What a circuit is: where it comes from, its sizes, and what it keeps in every layer."""
    runs, screen = RunFolder(folder), Screen(json=json)
    file = runs.circuit()
    if kind is not None and kind not in file.nodes:
        raise UnknownName("kind of node in this circuit", kind, file.nodes)
    if svg is not None:
        svg.parent.mkdir(parents=True, exist_ok=True)
        svg.write_text(draw(file, _score(folder)), encoding="utf-8")
    shown = Shown(
        folder=str(folder),
        origin=file.origin,
        layers=file.layers,
        units=file.units,
        sizes=file.sizes,
        nodes={name: nodes for name, nodes in file.nodes.items() if kind in (None, name)},
        family=[str(member.path) for member in runs.members()],
        scored=(folder / "evidence.json").is_file(),
    )
    if json:
        screen.emit(shown)
    elif kind is not None:
        screen.out.print(" ".join(file.nodes[kind]), soft_wrap=True)
    else:
        _print(shown, screen)


def _score(folder: Path) -> str:
    """What the circuit's evidence comes to, if it has been scored. Raises DataError for a broken file."""
    path = folder / "evidence.json"
    try:
        found = loads(path.read_text(encoding="utf-8"))["circuit"]
        return f"KL {found['kl']['mean']:.2f}, accuracy {found['accuracy']['mean']:.2f} on unseen prompts"
    except FileNotFoundError:
        return ""
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not an evidence file: {error}", f"run: subcircuit score {folder}") from error


def _print(shown: Shown, screen: Screen) -> None:
    origin = shown.origin
    lines = [
        f"[bold]{escape(origin.task)}[/] in [bold]{escape(origin.model)}[/] ({origin.family}, {origin.dtype}), "
        f"by {origin.method}, seed {origin.seed}",
        f"revision {origin.revision}",
        f"a closed node takes its value from: {origin.reference}",
        ", ".join(f"{name} {value:.4g}" for name, value in origin.result.items()),
    ]
    screen.out.print("\n".join(line for line in lines if line), soft_wrap=True)
    screen.out.print(_layers(shown))
    if shown.family:
        screen.out.print(f"other budgets: {escape(', '.join(shown.family))}", soft_wrap=True)
    if not shown.scored:
        screen.out.print(f"not scored yet: subcircuit score {escape(shown.folder)}", style="dim", soft_wrap=True)


def _layers(shown: Shown) -> Table:
    """A row per layer: heads as a grid, whole branches as one mark, anything finer as a count."""
    kinds = [kind for kind in Kind if kind in shown.sizes]
    kept = {Node.parse(name) for names in shown.nodes.values() for name in names}
    table = Table(box=None, pad_edge=False, show_footer=True)
    table.add_column("layer", "all", justify="right")
    for kind in kinds:
        size = shown.sizes[kind]
        justify = "left" if kind in GRID else "right"
        table.add_column(kind, f"{size.kept}/{size.total}", justify=justify)  # type: ignore[arg-type]
    for layer in range(shown.layers):
        table.add_row(str(layer), *(_cell(Site(layer, kind), shown.units[kind], kept) for kind in kinds))
    return table


def _cell(site: Site, units: int, kept: set[Node]) -> str:
    marks = [Node(site, unit) in kept for unit in range(units)]
    if site.kind in GRID or site.kind in ONE_UNIT:
        return "".join(KEPT if mark else CLOSED for mark in marks)
    return str(sum(marks)) if any(marks) else CLOSED
