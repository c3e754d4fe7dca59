"""TopK autoencoders and transcoders trained on activations as a model makes them (Gao et al. 2024), resumably.

Which rows a step sees and what is drawn in it are functions of the seed and the step, so that the weights, Adam's
moments and the step are all that a run needs to go on: the one that was stopped ends with the very weights of one that
was not.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch

from subcircuit.checkpoint import Checkpoint
from subcircuit.errors import UsageError
from subcircuit.features.dictionary import Dictionary
from subcircuit.features.harvest import Harvest, Rows, Source
from subcircuit.features.hooks import hook_name
from subcircuit.features.learning import Learner
from subcircuit.features.writing import write_dictionary
from subcircuit.progress import Progress, silent

__all__ = ["Trained", "Training", "claim", "measured"]

STATE, WEIGHTS = "training.safetensors", "sae_weights.safetensors"
PART = 1024  # rows that are encoded at a time where nothing is learned


@dataclass(frozen=True)
class Trained:
    """A dictionary and how it came to be."""

    dictionary: Dictionary
    history: list[dict[str, float]]  # FVU and L0 of each step's batch, and features silent before it
    rows: int  # learned from, counted each time


@dataclass(frozen=True)
class Training:
    """How a dictionary is trained. Raises UsageError for settings out of range."""

    features: Annotated[int, "directions to learn"] = 4096
    k: Annotated[int, "features on at a time"] = 32
    steps: Annotated[int, "batches to learn from"] = 2000
    batch: Annotated[int, "tokens in a batch"] = 1024
    lr: Annotated[float | None, "learning rate; left out: 2e-4 at 16,384 features, and falling with their root"] = None
    revive: Annotated[int, "steps of silence after which a feature starts again; 0 = never"] = 200
    save_every: Annotated[int, "steps between checkpoints"] = 200
    seed: Annotated[int, "of the first weights, the order of the rows and the features that start again"] = 0

    def __post_init__(self) -> None:
        least = {"features": 1, "k": 1, "steps": 1, "batch": 1, "revive": 0, "save_every": 1, "seed": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise UsageError(f"{name} is {getattr(self, name)}", f"give {bound} or more")
        if self.k > self.features:
            raise UsageError(f"k is {self.k}, of {self.features} features", "keep no more than there are")
        if self.lr is not None and not 0 < self.lr < 1:
            raise UsageError(f"lr is {self.lr}", "give a learning rate above 0 and below 1")

    def train(
        self, source: Source, folder: Path | None = None, *, resume: bool = False, progress: Progress = silent
    ) -> Trained:
        """Learn from the source's rows; with a `folder`, write the dictionary there, and the state on the way.

        Raises UsageError for a folder that is not empty or a state of other settings, DataError for rows that do not
        vary, NumericalError when the loss is no number any more.
        """
        claim(folder, resume)
        run = _Run(self, source)
        begun = run.restore(folder / STATE) if folder is not None and resume else 0
        for step in range(begun, self.steps):
            run.step(step)
            progress("training", step + 1, self.steps, **run.history[-1])
            if folder is not None and (step + 1) % self.save_every == 0:
                folder.mkdir(parents=True, exist_ok=True)
                run.save(folder / STATE)
        found = Trained(run.dictionary(), run.history, run.seen)
        if folder is not None:
            write_dictionary(found.dictionary, folder, {"training": asdict(self), "source": source.identity()})
            (folder / STATE).unlink(missing_ok=True)
        return found

    def rate(self, step: int) -> float:
        """Rises over the first twentieth of the steps, and falls to 0 over the last fifth."""
        top = 2e-4 * (16384 / self.features) ** 0.5 if self.lr is None else self.lr
        return top * min(1.0, (step + 1) / (0.05 * self.steps), (self.steps - step) / (0.2 * self.steps))


class _Run:
    """A dictionary on its way."""

    def __init__(self, settings: Training, source: Source) -> None:
        self.settings, self.source = settings, source
        self.history: list[dict[str, float]] = []
        self.epoch, self.number, self.taken, self.seen = 0, 0, 0, 0
        self.rows = source.chunk(0, 0)
        self.learner = Learner(
            self.rows, settings.features, settings.k, transcodes=source.transcodes, seed=settings.seed
        )

    def step(self, step: int) -> None:
        """Bring silent features back now and then, and learn from the next batch."""
        settings, learner = self.settings, self.learner
        every = settings.revive
        silent_now = float((learner.quiet >= every).sum()) if every else 0.0
        if every and step and step % every == 0 and step < 0.8 * settings.steps:  # later, nothing new could be learned
            generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
            learner.revive(self.rows[slice(0, PART)], every, generator)
        facts = learner.step(self._batch(), settings.rate(step))
        self.history.append({**facts, "dead": silent_now})

    def _batch(self) -> Rows:
        """The next rows; the last ones of a chunk that fill no batch are left out, unless they are all of it."""
        size = self.settings.batch
        if self.taken and self.taken + size > len(self.rows):
            self.number, self.taken = self.number + 1, 0
            if self.number == self.source.chunks:
                self.epoch, self.number = self.epoch + 1, 0
            self.rows = self.source.chunk(self.epoch, self.number)
        found = self.rows[slice(self.taken, self.taken + size)]
        self.taken, self.seen = self.taken + size, self.seen + len(found)
        return found

    def save(self, path: Path) -> None:
        place = {"epoch": self.epoch, "number": self.number, "taken": self.taken, "seen": self.seen}
        Checkpoint(self._identity(), self.learner.state(), {**place, "history": self.history}).save(path)

    def restore(self, path: Path) -> int:
        """Go on from a state; returns how many steps it has taken."""
        state = Checkpoint.load(path, self._identity())
        if state is None:
            return 0
        self.learner.restore(state.tensors)
        places = ("epoch", "number", "taken", "seen")
        self.epoch, self.number, self.taken, self.seen = (int(state.facts[name]) for name in places)
        self.rows = self.source.chunk(self.epoch, self.number)
        self.history = list(state.facts["history"])
        return len(self.history)

    def dictionary(self) -> Dictionary:
        """With where it belongs, and what it does on rows that it did not learn from."""
        source = self.source
        about: dict[str, Any] = {}
        if isinstance(source, Harvest):
            layers = len(source.subject)
            about = {
                "model": source.subject.name,
                "reads": hook_name(source.reads, layers),
                "writes": hook_name(source.writes, layers),
                "layer": source.reads.layer,
            }
        found = self.learner.dictionary(**about)
        return replace(found, expected=measured(found, source.held()))

    def _identity(self) -> dict[str, Any]:
        own = {name: value for name, value in asdict(self.settings).items() if name != "save_every"}
        return own | self.source.identity()


@torch.no_grad()
def measured(dictionary: Dictionary, rows: Rows) -> dict[str, float]:
    """FVU, features on at a time, the share of features that no row turns on, and the mean norm of the input."""
    left = torch.zeros((), dtype=torch.float64)
    fired, on = torch.zeros(len(dictionary), dtype=torch.bool), 0
    for start in range(0, len(rows), PART):
        part = rows[slice(start, start + PART)]
        x, y = part.x.cpu(), part.y.cpu()
        features = dictionary.encode(x)
        left += (y - dictionary.decode(features, x)).double().square().sum()
        fired |= (features > 0).any(0)
        on += int((features > 0).sum())
    variance = (rows.y.double() - rows.y.double().mean(0)).square().sum()
    return {
        "fvu": float(left / variance.cpu().clamp(min=1e-300)),
        "l0": on / len(rows),
        "dead": 1 - float(fired.double().mean()),
        "norm": float(rows.x.double().norm(dim=1).mean()),
    }


def claim(folder: Path | None, resume: bool) -> None:
    """Raises UsageError for a folder that holds something else than a run to go on with."""
    if folder is None or not folder.exists() or not any(folder.iterdir()):
        return
    if not resume:
        raise UsageError(f"{folder} is not empty", "--resume goes on with the run in it, or give another --out")
    if not (folder / STATE).is_file():
        what = "is finished" if (folder / WEIGHTS).is_file() else "holds no run to go on with"
        raise UsageError(f"{folder} {what}", "give another --out")
