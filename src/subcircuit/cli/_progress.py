"""Progress on stderr: a bar on a terminal, a line now and then elsewhere, nothing when quiet."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from subcircuit.progress import Progress, silent

__all__ = ["Bar", "Lines", "shown"]

EVERY = 30.0  # seconds between lines
WORDS = {"kl": "KL", "cost": "size"}  # a search's own words, as the reader knows them


@contextmanager
def shown(console: Console, *, quiet: bool = False) -> Iterator[Progress]:
    """A progress callback that draws on this console."""
    if quiet:
        yield silent
    elif console.is_terminal:
        with Bar(console) as bar:
            yield bar
    else:
        yield Lines(console)


class Bar:
    """A bar per phase; where another begins, the last one is complete."""

    def __init__(self, console: Console) -> None:
        self.bars = Bars(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[facts]}"),
            console=console,
        )
        self.phase, self.task = "", TaskID(-1)

    def __enter__(self) -> "Bar":
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def __call__(self, phase: str, done: int, total: int, **facts: float) -> None:
        if phase != self.phase:
            if self.phase:
                self.bars.update(self.task, completed=self.bars.tasks[self.task].total)
            self.phase, self.task = phase, self.bars.add_task(phase, total=total, facts="")
        self.bars.update(self.task, completed=done, total=total, facts=_text(facts))


class Lines:
    """A line every half minute, with the time the phase still needs at its pace so far."""

    def __init__(self, console: Console, every: float = EVERY) -> None:
        self.console, self.every = console, every
        self.said = monotonic()
        self.phase, self.began, self.first = "", self.said, 0

    def __call__(self, phase: str, done: int, total: int, **facts: float) -> None:
        now = monotonic()
        if phase != self.phase or done < self.first:
            self.phase, self.began, self.first = phase, now, done
        if now - self.said < self.every:
            return
        self.said = now
        pace = (now - self.began) / (done - self.first) if done > self.first else None
        left = f", {pace * (total - done):.0f} s left" if pace is not None else ""
        told = f", {_text(facts)}" if facts else ""
        self.console.print(f"{phase} {done}/{total}{told}{left}", soft_wrap=True)


def _text(facts: Mapping[str, float]) -> str:
    return "  ".join(f"{WORDS.get(name, name)} {value:.3g}" for name, value in facts.items())
