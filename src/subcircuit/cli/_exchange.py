"""`subcircuit export`, `import` and `check-mib`: circuits in the formats of others."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.markup import escape

from subcircuit.cli._exchanged import Brought, Exported, Flaw, SubmissionChecked
from subcircuit.cli._graph_export import export_graph
from subcircuit.cli._options import task_options
from subcircuit.cli._shell import Screen
from subcircuit.errors import DataError, UnknownName, UsageError
from subcircuit.runs import RunFolder

if TYPE_CHECKING:
    from subcircuit.circuit import Circuit

__all__ = ["brought", "check_mib", "export", "import_", "place"]

FORMATS = ("eap-ig", "mib", "graphml", "neuronpedia")
REFERENCES = ("corrupt", "mean", "zero", "resample")


def export(
    folder: Annotated[Path, typer.Argument(help="run folder; for neuronpedia, that of a graph", metavar="DIR")],
    out: Annotated[Path, typer.Option(help="file to write; for mib, the submission folder")],
    format: Annotated[str, typer.Option(help=", ".join(FORMATS))] = "eap-ig",
    cell: Annotated[str, typer.Option(help="mib: the benchmark's task and model, e.g. arc-easy_llama3")] = "",
    all_edges: Annotated[bool, typer.Option("--all-edges", help="graphml: also the edges that are not kept")] = False,
    model: Annotated[str, typer.Option(help="where the model is, when it is not where its origin says")] = "",
    nodes: Annotated[float, typer.Option(help="neuronpedia: share of the influence that the kept nodes have")] = 0.8,
    edges: Annotated[float, typer.Option(help="neuronpedia: the same for edges")] = 0.98,
    slug: Annotated[str, typer.Option(help="neuronpedia: the graph's name [default: the folder's]")] = "",
    scan: Annotated[str, typer.Option(help="neuronpedia: the model's name there [default: as the graph says]")] = "",
    supernodes: Annotated[int, typer.Option(help="neuronpedia: groups of features, at most; 0 = none", min=0)] = 30,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Write a circuit in another library's format: an EAP-IG or MIB file, a MIB submission, or GraphML.

    Or an attribution graph as Neuronpedia and circuit-tracer's page read it: the format neuronpedia.
    """
    if format not in FORMATS:
        raise UnknownName("format", format, FORMATS)
    if format == "neuronpedia":
        export_graph(folder, out, nodes, edges, slug, scan, supernodes, Screen(json=json))
        return
    if (cell and format != "mib") or (all_edges and format != "graphml"):
        raise UsageError(f"{'--cell' if cell else '--all-edges'} says nothing to the format {format}", "leave it out")
    RunFolder(folder).circuit()
    from subcircuit.circuit import Circuit

    circuit = Circuit.load(folder)
    file = _write(circuit, out, format, cell, all_edges, model)
    exported = Exported(folder=str(folder), format=cast(Any, format), file=str(file), sizes=circuit.sizes)
    screen = Screen(json=json)
    if json:
        screen.emit(exported)
        return
    screen.out.print(f"wrote {escape(str(file))}", soft_wrap=True)
    if format == "mib":
        screen.err.print(f"check it: subcircuit check-mib {escape(str(out))}", style="dim", soft_wrap=True)


def import_(
    file: Annotated[Path, typer.Argument(help="a .json circuit file of EAP-IG or MIB", metavar="FILE")],
    model: Annotated[str, typer.Option(help="the model it is of: built-in name, folder, .gguf file or hub id")],
    task: Annotated[str, typer.Option(help="task (list tasks), or a .jsonl or .csv file of your own prompts")],
    out: Annotated[Path, typer.Option(help="run folder to write")],
    task_option: Annotated[list[str] | None, typer.Option(help="name=value; may be repeated", metavar="K=V")] = None,
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit of a hub id")] = None,
    reference: Annotated[str, typer.Option(help=f"what filled ablated edges: {', '.join(REFERENCES)}")] = "corrupt",
    edges: Annotated[int | None, typer.Option(help="keep the best so many by score, connected ones only")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="keep a shared key or value when any head does")] = False,
    negate: Annotated[bool, typer.Option("--negate", help="the scores are of a metric that is no loss")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the run in the folder")] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Read an EAP-IG or MIB circuit file into a run folder; the model's weights are not loaded."""
    if reference not in REFERENCES:
        raise UnknownName("reference", reference, REFERENCES)
    options = task_options(task, task_option or [], False)
    folder, screen = place(out, overwrite), Screen(json=json)
    if not file.is_file():
        raise DataError(f"there is no file {file}", "check its path")
    with screen.logging():
        from subcircuit.interchange import import_eap_ig
        from subcircuit.loading import load_shape
        from subcircuit.tasks._resolve import task as resolve

        asked: Any = resolve(task, **options)
        circuit = import_eap_ig(
            file,
            load_shape(model, revision=revision),
            asked.name,
            task_options=asdict(asked),
            reference=reference,
            edges=edges,
            merge=merge,
            negate=negate,
        )
    brought(circuit, folder, screen)


def place(path: Path, overwrite: bool) -> RunFolder:
    """The run folder to write. Raises UsageError when it holds something that was not to be touched."""
    folder = RunFolder(path)
    if not overwrite and path.is_dir() and any(path.iterdir()):
        raise UsageError(f"{path} is not empty", "--overwrite replaces the run in it, or give another folder")
    folder.claim(overwrite=overwrite)
    return folder


def brought(circuit: "Circuit", folder: RunFolder, screen: Screen) -> None:
    """Put a circuit in the place of what the folder held, and say what it is."""
    folder.set_aside()
    circuit.save(folder.path)
    folder.settle()
    if screen.json:
        screen.emit(Brought(folder=str(folder.path), origin=circuit.origin, sizes=circuit.sizes))
        return
    sizes = ", ".join(f"{size.kept} of {size.total} {kind}" for kind, size in circuit.sizes.items())
    screen.out.print(f"{escape(str(folder.path))}: {sizes}", soft_wrap=True)


def check_mib(
    folder: Annotated[Path, typer.Argument(help="submission folder", metavar="DIR")],
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Check a submission folder for the MIB leaderboard before it is uploaded; exit code 3 when something is wrong."""
    screen = Screen(json=json)
    with screen.logging():
        from subcircuit.interchange import check_submission

        problems = check_submission(folder)
    if json:
        flaws = [Flaw(where=each.where, cause=each.cause, cure=each.cure) for each in problems]
        screen.emit(SubmissionChecked(folder=str(folder), problems=flaws))
    else:
        for each in problems:
            screen.out.print(f"[bold]{escape(each.where)}[/]: {escape(each.cause)}", soft_wrap=True)
            screen.out.print(f"  {escape(each.cure)}", style="dim", soft_wrap=True)
        screen.out.print("nothing is wrong" if not problems else f"{len(problems)} to mend")
    if problems:
        raise typer.Exit(DataError.exit_code)


def _write(circuit: "Circuit", out: Path, format: str, cell: str, all_edges: bool, model: str) -> Path:
    """The file that was written."""
    from subcircuit.interchange import write_eap_ig, write_graphml, write_submission
    from subcircuit.loading import load_shape
    from subcircuit.sites import Kind
    from subcircuit.wiring import Wiring

    if format == "graphml":
        write_graphml(circuit, out, all_edges=all_edges)
        return out
    origin = circuit.origin
    known = origin.revision if not model and not origin.revision.startswith("sha256:") else ""
    subject = load_shape(model or origin.model, revision=known or None)
    wiring, width = Wiring.of(subject.layout), subject.units(Kind.MLP_OUT)
    if format == "mib":
        return write_submission(circuit, out, wiring, d_model=width, cell=cell)
    write_eap_ig(circuit, out, wiring, d_model=width)
    return out
