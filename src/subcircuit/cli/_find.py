"""`subcircuit find METHOD`: a circuit into a run folder. What can be refused is refused before a model loads."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subcircuit import plugins
from subcircuit.cli._found import circuits_of, report, status
from subcircuit.cli._launch import launcher_of, taken
from subcircuit.cli._options import task_options
from subcircuit.cli._plan import CHECKPOINTING, require_memory
from subcircuit.cli._progress import shown
from subcircuit.cli._shell import Screen, stoppable, together
from subcircuit.errors import Interrupted, UnknownName
from subcircuit.parallel.place import started, started_as
from subcircuit.progress import Progress, silent
from subcircuit.records import versions
from subcircuit.runs import Run, RunFolder

if TYPE_CHECKING:
    from subcircuit.circuit import Circuit
    from subcircuit.shards.launcher import Launcher
    from subcircuit.subject import Subject
    from subcircuit.tasks._base import Task

__all__ = ["find"]


@dataclass(frozen=True)
class Request:
    """What was asked for, checked as far as it can be without a model."""

    method: str
    model: str
    revision: str | None
    dtype: str
    device: str
    checkpointing: bool
    task: str
    task_options: dict[str, Any]
    preset: str | None
    settings: dict[str, Any]  # those that were given
    launcher: "Launcher | None"  # of methods that are cut into shards


def find(
    ctx: typer.Context,
    model: Annotated[str, typer.Option(help="built-in name (list models), folder, .gguf file or hub id")],
    task: Annotated[
        str, typer.Option(help="task (list tasks), a .jsonl or .csv file of your own prompts, or FORMAT:FILE")
    ],
    out: Annotated[Path, typer.Option(help="run folder to write")],
    task_option: Annotated[list[str] | None, typer.Option(help="name=value; may be repeated", metavar="K=V")] = None,
    drop_bad: Annotated[bool, typer.Option("--drop-bad", help="drop and count bad rows of a prompts file")] = False,
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit of a hub id")] = None,
    dtype: Annotated[str, typer.Option(help="of the weights: float32, bfloat16 or float16")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps, or spread over all of them")] = "auto",
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help=CHECKPOINTING)] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the run in the folder")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in the folder, or begin it")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="begin although memory may not be enough")] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress, no notes")] = False,
    **settings: Any,
) -> None:
    """Find the circuit of a task in a model, into a run folder."""
    first = started_as() == 0  # of several processes, one writes and tells
    screen, folder = Screen(json=json and first, quiet=quiet or not first), RunFolder(out)
    options = task_options(task, task_option or [], drop_bad)
    preset = _preset(str(ctx.info_name), settings.pop("preset", None))
    launch = taken(settings)
    launcher = launcher_of(out, device, launch) if launch else None
    given = {name: value for name, value in settings.items() if value is not None}
    weights = (model, revision, dtype, device, checkpointing)
    request = Request(str(ctx.info_name), *weights, task, options, preset, given, launcher)
    with screen.logging(), stoppable(), together():
        if not first:
            return _help(request, folder, screen)
        _search(request, folder, folder.claim(overwrite=overwrite, resume=resume), screen, checked=not yes)
    report(folder, screen)


def _preset(method: str, name: str | None) -> str | None:
    if name is not None and name not in plugins.presets("methods", method):
        raise UnknownName("preset", name, plugins.presets("methods", method))
    return name


def _search(request: Request, folder: RunFolder, saved: Run | None, screen: Screen, *, checked: bool) -> None:
    """Run the method and write its circuits; a run that is done already stays as it is."""
    start = perf_counter()
    from subcircuit.tasks._resolve import task as resolve

    method = _method(request)
    if saved is not None:
        saved.require_same(_wanted(request, asdict(method)))
        if saved.done:
            screen.err.print(f"{folder.path} holds a finished run: there is nothing to go on with", style="dim")
            folder.tidy()
            _agreed(False)
            return
    task = resolve(request.task, **request.task_options)
    if checked:
        named = (request.model, request.revision, request.dtype, request.device, request.checkpointing)
        require_memory(request.method, method, task, *named, screen)
    _agreed(True)
    with shown(screen.err, quiet=screen.quiet) as progress:
        subject = _load(request, screen, progress)
        run = _begun(request, saved, subject, asdict(method))
        with _recorded(run, folder, start, anew=saved is None):
            _save(run, folder, _circuits(method, subject, task, folder.path, progress, request.launcher))


def _help(request: Request, folder: RunFolder, screen: Screen) -> None:
    """As another process than the first: take a share of its rows, and write nothing."""
    from subcircuit.tasks._resolve import task as resolve

    if _agreed(True):
        method, task = _method(request), resolve(request.task, **request.task_options)
        _circuits(method, _load(request, screen, silent), task, folder.path, silent)


def _agreed(going: bool) -> bool:
    """Whether the first process goes on; the others do as it does."""
    if started() == 1:
        return going
    from subcircuit.parallel.group import first_says

    return first_says("on" if going else "") == "on"


def _circuits(
    method: Any,
    subject: "Subject",
    task: "Task",
    folder: Path,
    progress: Progress,
    launcher: "Launcher | None" = None,
) -> "list[Circuit]":
    if hasattr(method, "family"):
        found: list[Circuit] = method.family(subject, task, folder=folder, progress=progress)
        return found
    more = {"launcher": launcher} if launcher and launcher.place != "here" else {}  # here, it remembers by itself
    return [method.find(subject, task, folder=folder, progress=progress, **more)]


def _method(request: Request) -> Any:
    kind = plugins.load("methods", request.method)
    return (getattr(kind, request.preset) if request.preset else kind)(**request.settings)


def _load(request: Request, screen: Screen, progress: Progress) -> "Subject":
    from subcircuit.loading import load

    screen.silence_transformers()
    return load(
        request.model,
        revision=request.revision,
        dtype=request.dtype,
        device=request.device,
        checkpointing=request.checkpointing,
        progress=progress,
    )


def _wanted(request: Request, settings: dict[str, Any]) -> dict[str, Any]:
    """What a resumed run must have in common with the one that began. Device and checkpointing may change."""
    names = ("method", "model", "dtype", "task", "task_options")
    return {name: getattr(request, name) for name in names} | {"settings": settings}


def _begun(request: Request, saved: Run | None, subject: "Subject", settings: dict[str, Any]) -> Run:
    """The record of this run as it begins, or goes on."""
    if saved is not None:
        saved.require_same({"revision": subject.revision})
        return saved.model_copy(update={"device": str(subject.device), "status": "running"})
    return Run(
        **_wanted(request, settings),
        revision=subject.revision,
        device=str(subject.device),
        versions=versions(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


@contextmanager
def _recorded(run: Run, folder: RunFolder, start: float, *, anew: bool) -> Iterator[None]:
    """Write that the search runs and how it ended, however it ends. Ctrl-C becomes Interrupted, with what to do next.

    A search that begins `anew` sets an earlier run aside, which comes back when this one ends with nothing saved.
    """

    def write(ending: str) -> None:
        seconds = round(run.seconds + perf_counter() - start, 1)
        folder.write(run.model_copy(update={"status": ending, "seconds": seconds}))

    try:
        if anew:
            folder.set_aside()
        folder.write(run)
        yield
    except (KeyboardInterrupt, Interrupted) as stop:
        write("interrupted")
        message = stop.message if isinstance(stop, Interrupted) else "the search was stopped"
        raise Interrupted(message, _again(earlier_is_back=folder.settle())) from stop
    except BaseException:
        write("failed")
        raise
    else:
        write(status(file.origin for _, file in circuits_of(folder)))
        folder.tidy()
    finally:
        folder.settle()


def _again(*, earlier_is_back: bool) -> str:
    if earlier_is_back:
        return "the earlier run is as it was: start again as before"
    again = [word for word in sys.argv[1:] if word not in ("--overwrite", "--resume")]
    return f"go on with: {shlex.join(['subcircuit', *again, '--resume'])}"


def _save(run: Run, folder: RunFolder, circuits: "list[Circuit]") -> None:
    """The first circuit is the folder's own; each circuit of a family has a folder besides."""
    for circuit in circuits if len(circuits) > 1 else []:
        origin = circuit.origin
        goal = "budget" if "budget" in origin.result else "k"
        member = folder.member(origin.result[goal], "kl" if goal == "budget" else "k")
        circuit.save(member.path)
        changes = {"settings": origin.settings, "seconds": round(origin.seconds, 1), "status": status([origin])}
        member.write(run.model_copy(update=changes))
    circuits[0].save(folder.path)
