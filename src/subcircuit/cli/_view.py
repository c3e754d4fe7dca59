"""`subcircuit view`: the page of a run, a codebook or a graph with its model behind it, on this machine only."""

import secrets
import signal
import sys
import webbrowser
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from subcircuit.cli._outputs import Viewed
from subcircuit.cli._shell import Screen
from subcircuit.cli._viewed import Choices, application, kind_of
from subcircuit.errors import MissingExtra

__all__ = ["view"]

NEEDED = ("fastapi", "uvicorn")


def view(
    folder: Annotated[
        Path, typer.Argument(help="run folder, or that of a codebook or an attribution graph", metavar="DIR")
    ],
    port: Annotated[int, typer.Option(help="port on this machine; 0 takes one that is free", min=0, max=65535)] = 0,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="open the page in the browser")] = True,
    circuit: Annotated[Path | None, typer.Option(help="of a codebook: the run whose nodes to mark")] = None,
    transcoders: Annotated[Path | None, typer.Option(help="of a graph: their folder, where it has moved")] = None,
    texts: Annotated[
        Path | None, typer.Option(help="of a graph: texts, one a line; features can then take their mean over them")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps, or spread over all of them")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="go on although the model's weights have changed")] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress, no notes")] = False,
) -> None:
    """Serve a run's report with its model behind it: switch nodes off and see the model change its mind. Of a codebook,
    take concepts out of the model; of an attribution graph, switch features off.

    The page is for browsers of this machine that have its address, which holds a random token. Ctrl-C ends it.
    """
    if any(find_spec(name) is None for name in NEEDED):
        raise MissingExtra("the live view", "view")
    choices = Choices(circuit, transcoders, texts, device, force)
    kind = kind_of(folder, choices)
    from subcircuit.view.server import HOST, bound, serve

    screen = Screen(json=json, quiet=quiet)
    with bound(port) as place, screen.logging():
        number, token = place.getsockname()[1], secrets.token_urlsafe(24)
        served = application(kind, folder, choices, token, number, screen)
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
            serve(served, place)
