"""`subcircuit graph`: the attribution graph of a prompt into a folder."""

import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from subcircuit.cli._graph_outputs import Drawn, Influential
from subcircuit.cli._progress import shown
from subcircuit.cli._shell import Screen, stoppable
from subcircuit.errors import DataError, ResourceError, UsageError
from subcircuit.graphs.records import GRAPH, GraphFile
from subcircuit.progress import Progress

if TYPE_CHECKING:
    from subcircuit.features.transcoders import Transcoders
    from subcircuit.graphs.attribution import Cost
    from subcircuit.graphs.graph import Graph
    from subcircuit.subject import Subject

__all__ = ["graph"]

SHOWN = 10  # nodes
LONG = 300  # seconds that are spent without asking
WINDOW = 64  # tokens of an example text


def graph(
    model: Annotated[str, typer.Option(help="built-in name (list models), folder, .gguf file or hub id")],
    prompt: Annotated[str, typer.Option(help="the text whose next token is explained")],
    transcoders: Annotated[Path, typer.Option(help="folder of circuit-tracer: transcoders of all layers")],
    out: Annotated[Path, typer.Option(help="folder to write")],
    right: Annotated[str, typer.Option(help="explain a logit difference: this token, its leading space included")] = "",
    wrong: Annotated[str, typer.Option(help="less this one")] = "",
    probability: Annotated[float, typer.Option(help="explain the fewest logits with this probability")] = 0.95,
    max_logits: Annotated[int, typer.Option(help="but so many at most", min=1)] = 10,
    max_features: Annotated[int, typer.Option(help="features that become nodes, most influential first", min=1)] = 7500,
    batch_size: Annotated[int, typer.Option(help="copies of the prompt in a backward pass", min=1)] = 32,
    skip: Annotated[int, typer.Option(help="tokens at the start whose features are left to the errors", min=0)] = 1,
    examples: Annotated[
        Path | None, typer.Option(help="texts, one a line: of each feature those that turn it on the most are kept")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit of a hub id")] = None,
    dtype: Annotated[str, typer.Option(help="of the weights: float32, bfloat16 or float16")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the graph in the folder")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask before work of many minutes")] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress, no notes")] = False,
) -> None:
    """Trace how a prompt's tokens reach its next token: features of transcoders as nodes, exact effects as edges."""
    if bool(right) != bool(wrong):
        raise UsageError("a logit difference is between --right and --wrong, and one of them is missing", "give both")
    if examples is not None and not examples.is_file():
        raise UsageError(f"{examples} is not a file", "give --examples a file of texts, one a line")
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (overwrite and (out / GRAPH).is_file()))):
        raise UsageError(f"{out} is not empty", "--overwrite replaces the graph in it, or give another folder")
    screen = Screen(json=json, quiet=quiet)
    with screen.logging(), stoppable(), shown(screen.err, quiet=quiet) as progress:
        from subcircuit.features.transcoders import read_transcoders
        from subcircuit.graphs.attribution import Attribution
        from subcircuit.graphs.files import save_graph
        from subcircuit.loading import load

        settings = Attribution(probability, max_logits, max_features, batch_size, skip)
        found = read_transcoders(transcoders)
        screen.silence_transformers()
        subject = load(model, revision=revision, dtype=dtype, device=device, progress=progress)
        between = (_token(subject, right), _token(subject, wrong)) if right else None
        start = perf_counter()
        made = settings.graph(subject, found, prompt, between=between, approve=_asking(yes, screen), progress=progress)
        file = save_graph(
            made,
            out,
            revision=subject.revision,
            settings=asdict(settings) | ({"right": right, "wrong": wrong} if right else {}),
            transcoders={
                "folder": str(transcoders),
                "reads": found.reads,
                "writes": found.writes,
                "model": found.model,
            },
            seconds=round(perf_counter() - start, 1),
        )
        _keep_examples(examples, subject, found, made, out, skip, progress)
    _report(made, file, out, screen)


def _keep_examples(
    texts: Path | None,
    subject: "Subject",
    transcoders: "Transcoders",
    made: "Graph",
    out: Path,
    skip: int,
    progress: Progress,
) -> None:
    """Texts beside the graph; those of an earlier graph go."""
    from subcircuit.features.documents import read_texts, windows
    from subcircuit.graphs.examples import EXAMPLES, find_examples

    (out / EXAMPLES).unlink(missing_ok=True)
    if texts is not None:
        read = windows(read_texts(texts), subject.tokenizer, WINDOW)
        find_examples(subject, transcoders, made, read, skip=skip, progress=progress).save(out)


def _token(subject: "Subject", text: str) -> list[int]:
    ids: list[int] = subject.tokenizer(text, add_special_tokens=False).input_ids
    if len(ids) != 1:
        raise DataError(f"{text!r} is {len(ids)} tokens", "give one token, its leading space included")
    return ids


def _asking(yes: bool, screen: Screen) -> "Callable[[Cost], None]":
    """Asks before long work; where nobody can answer, refuses it."""

    def approve(cost: "Cost") -> None:
        free = _memory()
        if cost.bytes > free:
            raise ResourceError(
                f"the graph of {cost.rows} of {cost.active} active features takes {cost.bytes / 2**30:.1f} GiB, and "
                f"{free / 2**30:.1f} GiB are free",
                "give a smaller --max-features",
            )
        if cost.seconds <= LONG or yes:
            return
        what = f"{cost.rows} of {cost.active} active features become nodes: about {cost.seconds / 60:.0f} minutes"
        if not sys.stdin.isatty() or not screen.err.is_terminal:
            raise ResourceError(what, "--yes goes on without asking; or give a smaller --max-features")
        typer.confirm(f"{what}. Go on?", abort=True, err=True)

    return approve


def _memory() -> int:
    """Bytes that are free, as far as the system tells."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return sys.maxsize


def _report(made: "Graph", file: GraphFile, out: Path, screen: Screen) -> None:
    from subcircuit.graphs.influence import node_influence

    found = node_influence(made)
    best = found[made.feature_nodes].topk(min(SHOWN, len(made.features)))
    each = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    top = [
        Influential(node=made.name(node), influence=value, activation=float(made.activations[node]))
        for node, value in each
    ]
    if screen.json:
        screen.emit(Drawn(folder=str(out), graph=file, influential=top))
        return
    targets = ", ".join(f"{target.label!r} {target.weight:.3g}" for target in file.targets)
    screen.out.print(f"explained: {escape(targets)}", soft_wrap=True)
    screen.out.print(
        f"{len(made.features)} of {made.active} active features; replacement score {file.replacement:.3f}, "
        f"completeness {file.completeness:.3f}; {file.seconds:.0f} s",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False)
    for column in ("feature", "influence", "activation"):
        table.add_column(column, justify="left" if column == "feature" else "right")
    for row in top:
        table.add_row(row.node, f"{row.influence:.3f}", f"{row.activation:.3g}")
    screen.out.print(table)
    screen.out.print(f"{escape(str(out))}", soft_wrap=True)
