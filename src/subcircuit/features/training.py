"""TopK autoencoders and transcoders trained on activations as a model makes them (Gao et al. 2024), resumably."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch

from subcircuit.errors import UsageError
from subcircuit.features.dictionary import Dictionary
from subcircuit.features.harvest import Harvest, Rows, Source
from subcircuit.features.hooks import hook_name
from subcircuit.features.learning import Learner
from subcircuit.features.running import STATE, Batches, Run, Schedule, check_least, claim, rate
from subcircuit.features.writing import write_dictionary
from subcircuit.progress import Progress, silent

__all__ = ["WEIGHTS", "Trained", "Training", "measured"]

WEIGHTS = "sae_weights.safetensors"
PART = 1024  # rows that are encoded at a time where nothing is learned


@dataclass(frozen=True)
class Trained:
    """A dictionary and how it came to be."""

    dictionary: Dictionary
    history: list[dict[str, float]]  # FVU and L0 of each step's batch, and features silent before it
    rows: int  # learned from, counted each time


@dataclass(frozen=True)
class Training(Schedule):
    """How a dictionary is trained. Raises UsageError for settings out of range."""

    features: Annotated[int, "directions to learn"] = 4096
    k: Annotated[int, "features on at a time"] = 32

    def __post_init__(self) -> None:
        check_least(self, {"features": 1, "k": 1, "steps": 1, "batch": 1, "revive": 0, "save_every": 1, "seed": 0})
        if self.k > self.features:
            raise UsageError(f"k is {self.k}, of {self.features} features", "keep no more than there are")

    def train(
        self, source: Source, folder: Path | None = None, *, resume: bool = False, progress: Progress = silent
    ) -> Trained:
        """Learn from the source's rows; with a `folder`, write the dictionary there, and the state on the way.

        Raises UsageError for a folder that is not empty or a state of other settings, DataError for rows that do not
        vary, NumericalError when the loss is no number any more.
        """
        claim(folder, resume, WEIGHTS)
        batches = Batches(source, self.batch)
        learner = Learner(batches.rows, self.features, self.k, transcodes=source.transcodes, seed=self.seed)

        def learn(step: int, rows: Rows) -> dict[str, float]:
            return learner.step(rows, rate(step, self.steps, self.features, self.lr))

        run = Run(self, asdict(self) | source.identity(), batches, learner, learn)
        run.finish(folder, resume, progress)
        found = Trained(_placed(learner, source), run.history, batches.seen)
        if folder is not None:
            write_dictionary(found.dictionary, folder, {"training": asdict(self), "source": source.identity()})
            (folder / STATE).unlink(missing_ok=True)
        return found


def _placed(learner: Learner, source: Source) -> Dictionary:
    """With where it belongs, and what it does on rows that it did not learn from."""
    about: dict[str, Any] = {}
    if isinstance(source, Harvest):
        layers = len(source.subject)
        about = {
            "model": source.subject.name,
            "reads": hook_name(source.reads, layers),
            "writes": hook_name(source.writes, layers),
            "layer": source.reads.layer,
        }
    found = learner.dictionary(**about)
    return replace(found, expected=measured(found, source.held()))


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
