"""The edge of the command line: errors become exit codes, results text or JSON, signals one kind of stop."""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape

from subcircuit.cli._outputs import Failure, Trouble
from subcircuit.errors import Interrupted, ResourceError, SubcircuitError, UsageError
from subcircuit.parallel.place import require_shared, started, tells

__all__ = ["Screen", "run", "stoppable", "together", "trouble"]

WIDE = 140  # columns of what goes to a file or a pipe: tables stay whole
# the root of typer's own usage errors, which it does not export
WrongUse: TypeAlias = typer.BadParameter.__bases__[0]  # type: ignore[name-defined]


@dataclass
class Screen:
    """Where a verb writes: results to stdout, everything else to stderr."""

    json: bool = False
    quiet: bool = False
    out: Console = field(default_factory=lambda: Console(highlight=False, width=None if sys.stdout.isatty() else WIDE))
    err: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))

    def emit(self, output: BaseModel) -> None:
        """Print a result as JSON."""
        sys.stdout.write(output.model_dump_json(indent=1) + "\n")

    def complain(self, error: SubcircuitError) -> None:
        """Print an error and its cure to stderr."""
        self.err.print(f"[bold red]error:[/] {escape(error.message)}", soft_wrap=True)
        if error.cure:
            self.err.print(escape(error.cure), soft_wrap=True)

    def silence_transformers(self) -> None:
        """Keep bars of other libraries away from where nobody watches them."""
        from transformers.utils.logging import disable_progress_bar

        if self.quiet or not self.err.is_terminal:
            disable_progress_bar()

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Show what the library logs while a verb runs."""
        handler = _ToConsole(self.err)
        log = logging.getLogger("subcircuit")
        before = log.level
        log.addHandler(handler)
        log.setLevel(logging.CRITICAL if self.quiet else logging.INFO)
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(before)


class _ToConsole(logging.Handler):
    """Log records as lines above a progress bar, each of them once."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self.said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() in self.said:
            return
        self.said.add(record.getMessage())
        style = "yellow" if record.levelno >= logging.WARNING else "dim"
        self.console.print(escape(record.getMessage()), style=style, soft_wrap=True)


def run(app: typer.Typer, arguments: list[str]) -> int:
    """Run a command line and return its exit code. No SubcircuitError leaves a traceback."""
    screen = Screen(json="--json" in arguments)
    try:
        if arguments and not arguments[0].startswith("-"):
            require_shared(arguments[0])
        code = app(arguments, prog_name="subcircuit", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SubcircuitError as error:
        return _fail(screen, error)
    except WrongUse as error:
        message = error.format_message()
        if not message:  # a verb without arguments has printed its help
            return UsageError.exit_code
        path = error.ctx.command_path if error.ctx else "subcircuit"
        return _fail(screen, UsageError(message, f"see {path} --help"))
    except (KeyboardInterrupt, typer.Abort):
        return _fail(screen, Interrupted("stopped"))
    except OSError as error:
        return _fail(screen, ResourceError(str(error), "check the disk and the permissions"))


def trouble(error: SubcircuitError) -> Trouble:
    """An error as it is printed with `--json`."""
    return Trouble(kind=type(error).__name__, message=error.message, cure=error.cure, exit_code=error.exit_code)


@contextmanager
def stoppable(so_far: str = "nothing was written") -> Iterator[None]:
    """Let SIGTERM stop what runs as Ctrl-C does. Raises Interrupted, which tells what is there `so_far`."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Interrupted(f"stopped: {so_far}", "start again as before") from stop
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def together() -> Iterator[None]:
    """Within the block this process and those started with it are a group; one alone needs no torch for that."""
    if started() == 1:
        yield
        return
    from subcircuit.parallel.group import joined

    with joined():
        yield


def _fail(screen: Screen, error: SubcircuitError) -> int:
    if not tells(error):
        return error.exit_code
    screen.complain(error)
    if screen.json:
        screen.emit(Failure(error=trouble(error)))
    return error.exit_code
