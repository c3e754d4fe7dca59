"""`subcircuit view`: a run's report with its model behind it, on this machine only."""

import secrets
import signal
import sys
import webbrowser
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subcircuit.cli._model import model_of
from subcircuit.cli._outputs import Viewed
from subcircuit.cli._progress import shown
from subcircuit.cli._shell import Screen
from subcircuit.errors import MissingExtra, SubcircuitError
from subcircuit.records import Origin
from subcircuit.runs import RunFolder

if TYPE_CHECKING:
    from fastapi import FastAPI

    from subcircuit.tasks._base import Task
    from subcircuit.view import Session

__all__ = ["view"]

NEEDED = ("fastapi", "uvicorn")


def view(
    folder: Annotated[Path, typer.Argument(help="run folder", metavar="DIR")],
    port: Annotated[int, typer.Option(help="port on this machine; 0 takes one that is free", min=0, max=65535)] = 0,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="open the page in the browser")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps, or spread over all of them")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="go on although the model's weights have changed")] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress, no notes")] = False,
) -> None:
    """Serve a run's report with its model behind it: switch nodes off and see the model change its mind.

    The page is for browsers of this machine that have its address, which holds a random token. Ctrl-C ends it.
    """
    if any(find_spec(name) is None for name in NEEDED):
        raise MissingExtra("the live view", "view")
    origin = RunFolder(folder).circuit().origin
    from subcircuit.view.server import HOST, bound, serve

    screen = Screen(json=json, quiet=quiet)
    with bound(port) as place, screen.logging():
        number, token = place.getsockname()[1], secrets.token_urlsafe(24)
        application = _application(_session(folder, origin, device, force, screen), folder, token, number)
        url = f"http://{HOST}:{number}/{token}/"
        if json:
            screen.emit(Viewed(url=url, port=number, folder=str(folder)))
            sys.stdout.flush()
        else:
            screen.out.print(f"{url}\nCtrl-C ends it.", soft_wrap=True, markup=False)
        if open_:
            webbrowser.open(url)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, which is the way to end it
        with suppress(KeyboardInterrupt):
            serve(application, place)


def _session(folder: Path, origin: Origin, device: str, force: bool, screen: Screen) -> "Session":
    from subcircuit.circuit import Circuit
    from subcircuit.view import Session

    circuit = Circuit.load(folder)
    with shown(screen.err, quiet=screen.quiet) as progress:
        subject = model_of(origin, device, force, screen, progress)
    task, absent = _task(origin)
    return Session(subject, circuit, task, folder=str(folder), absent=absent)


def _task(origin: Origin) -> "tuple[Task | None, str]":
    """The task, or why it is not at hand: the model answers to other prompts all the same."""
    from subcircuit.tasks._resolve import task

    options = {name: value for name, value in origin.task_options.items() if name != "path"}
    try:
        return task(origin.task, **options), ""
    except SubcircuitError as error:
        return None, error.message


def _application(session: "Session", folder: Path, token: str, port: int) -> "FastAPI":
    from subcircuit.report import page, payload
    from subcircuit.view.desk import Desk
    from subcircuit.view.server import app

    html = page(*payload(str(folder)), live=session.about)
    return app(Desk(session.answer), html, token=token, port=port)
