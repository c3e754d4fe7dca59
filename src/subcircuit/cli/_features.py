"""`subcircuit features`: sparse dictionaries trained on a model's activations, and checked against a model."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from subcircuit import plugins
from subcircuit.cli._featured import DictionaryChecked, DictionaryFinding
from subcircuit.cli._progress import shown
from subcircuit.cli._shell import Screen, stoppable
from subcircuit.cli._training import Order, work_of
from subcircuit.errors import DataError, Interrupted, UsageError
from subcircuit.sites import Site

if TYPE_CHECKING:
    from subcircuit.features.documents import Documents
    from subcircuit.features.health import Health
    from subcircuit.subject import Subject

__all__ = ["check_features", "train_features"]

BEST = 5  # other places and readings that are shown

Model = Annotated[str, typer.Option(help="built-in name, folder, .gguf or hub id")]
Text = Annotated[
    Path | None, typer.Option(help="a text a line, or .jsonl with the field text [default: prompts of all tasks]")
]
TaskNames = Annotated[list[str] | None, typer.Option("--task", help="prompts of this task; may be repeated")]
Window = Annotated[int, typer.Option(help="tokens that a model reads at a time", min=2)]
Skip = Annotated[int, typer.Option(help="tokens at the start of each window that are left out", min=0)]
Batch = Annotated[int, typer.Option("--model-batch", help="windows in a pass of the model", min=1)]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress, no notes")]


def train_features(
    model: Model,
    out: Annotated[Path, typer.Option(help="folder to write")],
    site: Annotated[
        str | None,
        typer.Option(help="what it reads, and gives back: 12.resid, 12.mlp_out, ...; needed but for --cross-layer"),
    ] = None,
    to: Annotated[str | None, typer.Option(help="a transcoder: the site it gives in place of its own")] = None,
    cross_layer: Annotated[
        bool, typer.Option("--cross-layer", help="in place of --site: transcoders of all MLPs that write to later ones")
    ] = False,
    text: Text = None,
    task: TaskNames = None,
    features: Annotated[
        int | None,
        typer.Option(help="directions to learn; left out: 4096, with --cross-layer 1024 in each layer", min=1),
    ] = None,
    k: Annotated[
        int | None, typer.Option(help="features on at a time; left out: 32; not with --cross-layer", min=1)
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option(
            help="with --cross-layer: price of a feature that is on, in variances of a layer; left out: 0.003"
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="batches to learn from", min=1)] = 2000,
    batch: Annotated[int, typer.Option(help="tokens in a batch", min=1)] = 1024,
    lr: Annotated[float | None, typer.Option(help="learning rate; left out: by the number of features")] = None,
    revive: Annotated[int, typer.Option(help="steps of silence until a feature starts again; 0 = never", min=0)] = 200,
    save_every: Annotated[int, typer.Option(help="steps between checkpoints", min=1)] = 200,
    rows: Annotated[
        int | None,
        typer.Option(help="tokens whose activations are in memory; left out: 65,536, with --cross-layer 4,096", min=1),
    ] = None,
    window: Window = 128,
    skip: Skip = 1,
    model_batch: Batch = 32,
    seed: Annotated[int, typer.Option(help="of weights and orders", min=0)] = 0,
    dtype: Dtype = "float32",
    device: Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in the folder")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a TopK sparse autoencoder, or with --to a transcoder, on a model's activations.

    Writes a folder that SAELens reads; with --cross-layer one that circuit-tracer reads. FVU, L0 and dead features are
    told on the way, and measured at the end on windows that were held out.
    """
    common = {"steps": steps, "batch": batch, "lr": lr, "revive": revive, "save_every": save_every, "seed": seed}
    given = common if features is None else {**common, "features": features}
    reading = {"skip": skip, "batch": model_batch, "seed": seed} | ({} if rows is None else {"rows": rows})
    screen = Screen(json=json, quiet=quiet)
    with screen.logging(), stoppable(), shown(screen.err, quiet=quiet) as progress:
        work = work_of(given, site, to, k=k, sparsity=sparsity, cross=cross_layer)
        work.claim(out, resume)
        from subcircuit.loading import load

        screen.silence_transformers()
        subject = load(model, dtype=dtype, device=device, progress=progress)
        documents = _documents(subject, text, task, window)
        try:
            output, told = work.train(subject, Order(documents, reading, out, resume, progress))
        except KeyboardInterrupt as stop:
            kept = "the last checkpoint is kept" if out.exists() else "there was no checkpoint yet"
            raise Interrupted(f"stopped; {kept}", "the same command with --resume goes on") from stop
    if json:
        screen.emit(output)
        return
    screen.out.print(escape(f"{told}\n{out}"), soft_wrap=True)


def check_features(
    folder: Annotated[Path, typer.Argument(help="a folder of SAELens, sparsify or circuit-tracer", metavar="DIR")],
    model: Model,
    layer: Annotated[int | None, typer.Option(help="of a folder of transcoders: which")] = None,
    site: Annotated[str | None, typer.Option(help="where it reads [default: its hook]")] = None,
    to: Annotated[str | None, typer.Option(help="where a transcoder writes [default: its hook]")] = None,
    text: Text = None,
    task: TaskNames = None,
    windows: Annotated[int, typer.Option(help="windows of text, at most", min=1)] = 256,
    window: Window = 128,
    skip: Skip = 1,
    model_batch: Batch = 32,
    dtype: Dtype = "float32",
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Does a dictionary belong where it is about to be used? Measured on the model's activations.

    Exit code 3 when a finding is an error: another layer, hook, activation, normalisation or model, a broken decoder.
    """
    reads, writes = (Site.parse(each) if each else None for each in (site, to))
    screen = Screen(json=json, quiet=quiet)
    with screen.logging(), stoppable(), shown(screen.err, quiet=quiet) as progress:
        from subcircuit.features.folders import read_dictionary
        from subcircuit.features.health import check
        from subcircuit.loading import load

        dictionary = read_dictionary(folder, layer)
        screen.silence_transformers()
        subject = load(model, dtype=dtype, device=device, progress=progress)
        documents = _documents(subject, text, task, window)
        spread = max(1, len(documents) // windows)
        health = check(dictionary, subject, documents[::spread][:windows], reads, writes, skip=skip, batch=model_batch)
    _tell(health, folder, model, screen)
    if not health.healthy:
        raise typer.Exit(DataError.exit_code)


def _documents(subject: "Subject", text: Path | None, task: list[str] | None, window: int) -> "Documents":
    from subcircuit.features.documents import of_tasks, read_texts, windows

    if text is not None and task:
        raise UsageError("--text and --task are two sources of text", "give one of them")
    if text is not None:
        return windows(read_texts(text), subject.tokenizer, window)
    return of_tasks(subject.tokenizer, task or plugins.names("tasks"), 400)


def _tell(health: "Health", folder: Path, model: str, screen: Screen) -> None:
    output = DictionaryChecked(
        folder=str(folder),
        model=model,
        reads=str(health.reads),
        writes=str(health.writes),
        tokens=health.rows,
        healthy=health.healthy,
        measured=dict(health.measured),
        expected=dict(health.expected),
        others=dict(health.others),
        findings=[DictionaryFinding(**asdict(each)) for each in health.findings],
    )
    if screen.json:
        screen.emit(output)
        return
    for finding in health.findings:
        colour = "red" if finding.level == "error" else "yellow"
        screen.out.print(f"[{colour}]{finding.level}[/] {finding.part}: {escape(finding.cause)}", soft_wrap=True)
        screen.out.print(f"  {escape(finding.cure)}\n", soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for column in ("", "here", "as its maker measured"):
        table.add_column(column, justify="left" if not column else "right")
    words = {"fvu": "FVU", "l0": "L0", "dead": "dead features", "norm": "mean norm of the input"}
    for name, value in health.measured.items():
        before = health.expected.get(name)
        table.add_row(words[name], f"{value:.3g}", "" if before is None else f"{before:.3g}")
    screen.out.print(table)
    near = ", ".join(f"{name} {fvu:.3g}" for name, fvu in list(health.others.items())[:BEST])
    screen.out.print(f"\nFVU elsewhere or otherwise, best first: {escape(near)}", soft_wrap=True)
    verdict = "healthy" if health.healthy else "not to be trusted here"
    screen.out.print(f"{escape(str(folder))} at {health.reads} of {escape(model)}: {verdict}", soft_wrap=True)
