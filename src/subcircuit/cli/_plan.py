"""`subcircuit plan`: what a search or a score would take on this machine, before it is begun."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subcircuit import plugins
from subcircuit.cli._options import task_options
from subcircuit.cli._progress import shown
from subcircuit.cli._shell import Screen, stoppable
from subcircuit.errors import ResourceError, UsageError
from subcircuit.progress import Progress
from subcircuit.runs import RunFolder

if TYPE_CHECKING:
    from subcircuit.planning.estimate import Estimate
    from subcircuit.planning.machine import Machine
    from subcircuit.planning.pace import Pace
    from subcircuit.planning.work import Work
    from subcircuit.tasks._base import Task

__all__ = ["CHECKPOINTING", "plan_find", "plan_score", "require_memory"]

CHECKPOINTING = "recompute each layer in the backward pass: less memory, more time"
MEASURE = "time one step of the real model; by default where its weights are on this machine and fit"
MEMORY = "plan for a device with so many GB instead of what is free here"
PROCESSES = "that share the prompts, as accelerate launch starts them"


def plan_find(
    ctx: typer.Context,
    model: Annotated[str, typer.Option(help="built-in name (list models), folder, .gguf file or hub id")],
    task: Annotated[str, typer.Option(help="task (list tasks) or a file of your own prompts")],
    out: Annotated[Path, typer.Option(help="run folder that would be written; its disk is looked at")] = Path(),
    task_option: Annotated[list[str] | None, typer.Option(help="name=value; may be repeated", metavar="K=V")] = None,
    drop_bad: Annotated[bool, typer.Option("--drop-bad", help="drop bad rows of a prompts file")] = False,
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit of a hub id")] = None,
    dtype: Annotated[str, typer.Option(help="of the weights: float32, bfloat16 or float16")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps, or spread over all of them")] = "auto",
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help=CHECKPOINTING)] = False,
    processes: Annotated[int, typer.Option(help=PROCESSES, min=1)] = 1,
    memory: Annotated[float | None, typer.Option(help=MEMORY)] = None,
    measure: Annotated[bool | None, typer.Option("--measure/--no-measure", help=MEASURE)] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress, no notes")] = False,
    **settings: Any,
) -> None:
    """What finding the circuit would take: memory from the model's sizes, time from one measured step.

    Exit code 4 where it does not fit.
    """
    screen = Screen(json=json, quiet=quiet)
    if memory is not None and memory <= 0:
        raise UsageError(f"--memory is {memory:g}", "give gigabytes, more than 0")
    options, preset = task_options(task, task_option or [], drop_bad), settings.pop("preset", None)
    given = {name: value for name, value in settings.items() if value is not None}
    with screen.logging(), stoppable(), shown(screen.err, quiet=quiet) as progress:
        from subcircuit.cli._planned import tell
        from subcircuit.planning.estimate import estimate
        from subcircuit.tasks._resolve import task as resolve

        method = str(ctx.info_name)
        kind = plugins.load("methods", method)
        own, source = (getattr(kind, preset) if preset else kind)(**given), resolve(task, **options)
        work = _work(method, own, source, model, revision, dtype, progress, checkpointing)
        machine = _machine(device, out, memory)
        more: dict[str, Any] = {"processes": processes, "spread": device == "spread"}
        found = estimate(method, work, machine, **more)
        if measure or (measure is None and found.fits and _here(model)):
            speed = _pace(work, source, model, revision, dtype, device, "edge" in method, progress)
            found = estimate(method, work, machine, pace=speed, **more)
    tell(found, screen)


def plan_score(
    folder: Annotated[Path, typer.Argument(help="run folder", metavar="DIR")],
    pairs: Annotated[int, typer.Option(help="prompt pairs to score on", min=1)] = 200,
    controls: Annotated[int, typer.Option(help="random circuits of the same size", min=1)] = 20,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps, or spread over all of them")] = "auto",
    memory: Annotated[float | None, typer.Option(help=MEMORY)] = None,
    measure: Annotated[bool | None, typer.Option("--measure/--no-measure", help=MEASURE)] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress, no notes")] = False,
) -> None:
    """What scoring a circuit would take. Exit code 4 where it does not fit."""
    origin, screen = RunFolder(folder).circuit().origin, Screen(json=json, quiet=quiet)
    with screen.logging(), stoppable(), shown(screen.err, quiet=quiet) as progress:
        from subcircuit.cli._planned import tell
        from subcircuit.planning.estimate import estimate
        from subcircuit.planning.needs import evidence
        from subcircuit.tasks._resolve import task as resolve

        kind = plugins.load("methods", origin.method)
        known = {option.name for option in plugins.options("methods", origin.method)}
        usual = {"batch": 32, "cache_gb": 2.0, "validation": pairs}  # of `score`, whatever the search had
        own = kind(**{name: value for name, value in (origin.settings | usual).items() if name in known})
        source = resolve(origin.task, **{name: value for name, value in origin.task_options.items() if name != "path"})
        revision = None if origin.revision.startswith("sha256:") else origin.revision or None
        named = (origin.model, revision, origin.dtype)
        work, machine = _work(origin.method, own, source, *named, progress), _machine(device, folder, memory)
        needs = evidence(work, pairs, controls)
        found = estimate("score", work, machine, needs=needs)
        if measure or (measure is None and found.fits and _here(origin.model)):
            speed = _pace(work, source, *named, device, False, progress)
            found = estimate("score", work, machine, needs=needs, pace=speed)
    tell(found, screen)


def require_memory(
    method: str,
    own: Any,
    task: "Task",
    model: str,
    revision: str | None,
    dtype: str,
    device: str,
    checkpointing: bool,
    screen: Screen,
) -> None:
    """Ask, where somebody can answer, before a search that does not fit into memory. Raises ResourceError."""
    from subcircuit.errors import DataError, UnsupportedModel
    from subcircuit.planning.estimate import estimate
    from subcircuit.planning.needs import METHODS
    from subcircuit.progress import silent

    if method not in METHODS:
        return
    machine = _machine(device, Path(), None)
    try:
        work = _work(method, own, task, model, revision, dtype, silent, checkpointing)
    except (DataError, UnsupportedModel):  # the search meets them too, and says what becomes of an earlier run
        return
    found: Estimate = estimate(method, work, machine, spread=device == "spread")
    if found.peak <= found.memory:
        return
    message, cure = _short(found)
    if screen.err.is_terminal and not screen.quiet and not screen.json:
        screen.err.print(f"{message}\n{cure}", style="yellow", soft_wrap=True, markup=False)
        if typer.confirm("go on all the same?", err=True):
            return
    raise ResourceError(message, cure)


def _short(found: "Estimate") -> tuple[str, str]:
    most, there = found.peak / 2**30, found.memory / 2**30
    ways = f"what would fit: {', or '.join(found.options)}; " if found.options else ""
    return (
        f"the search needs about {most:.1f} GB of memory ({found.moment}), and {there:.1f} GB are free",
        f"{ways}--yes begins all the same, and `subcircuit plan find {found.what}` tells more",
    )


def _work(
    method: str,
    own: Any,
    task: "Task",
    model: str,
    revision: str | None,
    dtype: str,
    progress: Progress,
    checkpointing: bool = False,
) -> "Work":
    """From the configuration and the tokenizer alone."""
    from subcircuit.loading import load_shape, load_tokenizer
    from subcircuit.planning.estimate import draw, work_of
    from subcircuit.planning.shape import Shape
    from subcircuit.subject import Subject

    hollow = load_shape(model, revision=revision, progress=progress)
    tokenizer = load_tokenizer(model, revision=revision, progress=progress)
    shape = Shape.of(hollow, dtype)
    load = draw(task, Subject(hollow.model, tokenizer), own)
    return work_of(method, own, shape, load, checkpointing=checkpointing)


def _machine(device: str, folder: Path, memory: float | None) -> "Machine":
    from dataclasses import replace

    from subcircuit.planning.machine import Machine

    here = Machine.here(device, folder)
    return here if memory is None else replace(here, memory=memory * 2**30)


def _here(model: str) -> bool:
    """Whether the weights are on this machine, so that nothing would be fetched to time a step."""
    from subcircuit.builtin import builtin_models

    return model in builtin_models() or Path(model).expanduser().exists()


def _pace(
    work: "Work",
    task: "Task",
    model: str,
    revision: str | None,
    dtype: str,
    device: str,
    edges: bool,
    progress: Progress,
) -> "Pace":
    from subcircuit.loading import load
    from subcircuit.planning.pace import measured

    again = work.checkpointing
    subject = load(model, revision=revision, dtype=dtype, device=device, checkpointing=again, progress=progress)
    progress("measuring", 0, 1)
    pairs = task.pairs(subject.tokenizer, work.rows, seed=0, split="train")
    found = measured(subject, pairs, subject.sites(*work.gated), work.rows, edges=edges)
    progress("measuring", 1, 1)
    return found
