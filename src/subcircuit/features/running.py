"""What all training of dictionaries shares: batches in their order, silent features, a state to go on from.

Which rows a step sees and what is drawn in it are functions of the seed and the step, so that the weights, Adam's
moments and the step are all that a run needs to go on: the one that was stopped ends with the very weights of one that
was not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import torch
from torch import Tensor

from subcircuit.checkpoint import Checkpoint
from subcircuit.errors import UsageError
from subcircuit.features.harvest import Rows, Source
from subcircuit.progress import Progress

__all__ = ["STATE", "Batches", "Run", "Schedule", "check_least", "claim", "rate"]

STATE = "training.safetensors"
PART = 1024  # rows among which silent features start again
PLACES = ("epoch", "number", "taken", "seen")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The settings that all training shares."""

    steps: Annotated[int, "batches to learn from"] = 2000
    batch: Annotated[int, "tokens in a batch"] = 1024
    lr: Annotated[float | None, "learning rate; left out: 2e-4 at 16,384 features, and falling with their root"] = None
    revive: Annotated[int, "steps of silence after which a feature starts again; 0 = never"] = 200
    save_every: Annotated[int, "steps between checkpoints"] = 200
    seed: Annotated[int, "of the first weights, the order of the rows and the features that start again"] = 0


class Pupil(Protocol):
    """Weights that learn."""

    quiet: Tensor  # steps since each feature was on

    def revive(self, rows: Rows, silent: int, generator: torch.Generator) -> int: ...
    def state(self) -> dict[str, Tensor]: ...
    def restore(self, state: dict[str, Tensor]) -> None: ...


class Batches:
    """A source's rows, a batch at a time; `rows` is the chunk that they are cut from."""

    def __init__(self, source: Source, size: int) -> None:
        self.source, self.size = source, size
        self.epoch, self.number, self.taken, self.seen = 0, 0, 0, 0
        self.rows = source.chunk(0, 0)

    def take(self) -> Rows:
        """The next rows; the last ones of a chunk that fill no batch are left out, unless they are all of it."""
        if self.taken and self.taken + self.size > len(self.rows):
            self.number, self.taken = self.number + 1, 0
            if self.number == self.source.chunks:
                self.epoch, self.number = self.epoch + 1, 0
            self.rows = self.source.chunk(self.epoch, self.number)
        found = self.rows[slice(self.taken, self.taken + self.size)]
        self.taken, self.seen = self.taken + self.size, self.seen + len(found)
        return found

    def place(self) -> dict[str, int]:
        """Where it stands."""
        return {name: getattr(self, name) for name in PLACES}

    def go(self, place: Mapping[str, Any]) -> None:
        """Stand there."""
        self.epoch, self.number, self.taken, self.seen = (int(place[name]) for name in PLACES)
        self.rows = self.source.chunk(self.epoch, self.number)


class Run:
    """A pupil on its way. `learn` takes the step's number and its rows, and tells the facts of the step."""

    def __init__(
        self,
        settings: Schedule,
        identity: Mapping[str, Any],
        batches: Batches,
        pupil: Pupil,
        learn: Callable[[int, Rows], dict[str, float]],
    ) -> None:
        self.settings, self.batches, self.pupil, self.learn = settings, batches, pupil, learn
        self.identity = {name: value for name, value in identity.items() if name != "save_every"}
        self.history: list[dict[str, float]] = []

    def finish(self, folder: Path | None, resume: bool, progress: Progress) -> None:
        """Take all steps, or those that are left; with a `folder`, keep the state there on the way.

        Raises UsageError for a state of other settings, NumericalError when the loss is no number any more.
        """
        begun = self._restore(folder / STATE) if folder is not None and resume else 0
        for step in range(begun, self.settings.steps):
            self._step(step)
            progress("training", step + 1, self.settings.steps, **self.history[-1])
            if folder is not None and (step + 1) % self.settings.save_every == 0:
                folder.mkdir(parents=True, exist_ok=True)
                facts = {**self.batches.place(), "history": self.history}
                Checkpoint(self.identity, self.pupil.state(), facts).save(folder / STATE)

    def _step(self, step: int) -> None:
        """Bring silent features back now and then, and learn from the next batch."""
        every, steps = self.settings.revive, self.settings.steps
        silent_now = float((self.pupil.quiet >= every).sum()) if every else 0.0
        if every and step and step % every == 0 and step < 0.8 * steps:  # later, nothing new could be learned
            generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + step)
            self.pupil.revive(self.batches.rows[slice(0, PART)], every, generator)
        facts = self.learn(step, self.batches.take())
        self.history.append({**facts, "dead": silent_now})

    def _restore(self, path: Path) -> int:
        """Go on from a state; returns how many steps it has taken."""
        state = Checkpoint.load(path, self.identity)
        if state is None:
            return 0
        self.pupil.restore(state.tensors)
        self.batches.go(state.facts)
        self.history = list(state.facts["history"])
        return len(self.history)


def rate(step: int, steps: int, features: int, lr: float | None) -> float:
    """The learning rate: it rises over the first twentieth of the steps, and falls to 0 over the last fifth."""
    top = 2e-4 * (16384 / features) ** 0.5 if lr is None else lr
    return top * min(1.0, (step + 1) / (0.05 * steps), (steps - step) / (0.2 * steps))


def check_least(settings: object, least: Mapping[str, int]) -> None:
    """Raises UsageError for a setting below its bound, and for a learning rate that is none."""
    for name, bound in least.items():
        if getattr(settings, name) < bound:
            raise UsageError(f"{name} is {getattr(settings, name)}", f"give {bound} or more")
    lr: float | None = getattr(settings, "lr", None)
    if lr is not None and not 0 < lr < 1:
        raise UsageError(f"lr is {lr}", "give a learning rate above 0 and below 1")


def claim(folder: Path | None, resume: bool, written: str) -> None:
    """Raises UsageError for a folder that holds something else than a run to go on with.

    `written` is a file that a finished run leaves.
    """
    if folder is None or not folder.exists() or not any(folder.iterdir()):
        return
    if not resume:
        raise UsageError(f"{folder} is not empty", "--resume goes on with the run in it, or give another --out")
    if not (folder / STATE).is_file():
        what = "is finished" if (folder / written).is_file() else "holds no run to go on with"
        raise UsageError(f"{folder} {what}", "give another --out")
