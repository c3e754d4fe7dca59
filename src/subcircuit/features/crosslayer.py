"""Cross-layer transcoders trained on what all MLPs of a model read and write (Ameisen et al. 2025), resumably.

The price of a feature that is on rises linearly from 0 over all steps.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch

from subcircuit.features.branches import Branches
from subcircuit.features.fits import Fit
from subcircuit.features.harvest import Rows, Source
from subcircuit.features.joint import JointLearner
from subcircuit.features.running import STATE, Batches, Run, Schedule, check_least, claim, rate
from subcircuit.features.transcoders import CONFIG, Decoding, Transcoders, write_transcoders
from subcircuit.progress import Progress, silent

__all__ = ["TRAINED", "CrossLayerTraining", "TrainedTranscoders", "measured_layers", "size_of"]

TRAINED = 4  # times the weights: gradients, and two moments of Adam
PART = 256  # rows that are encoded at a time where nothing is learned


@dataclass(frozen=True)
class TrainedTranscoders:
    """Transcoders and how they came to be."""

    transcoders: Transcoders  # `expected` of each layer: FVU, L0 and dead features on rows that were held out
    history: list[dict[str, float]]  # FVU and L0 of a layer, means over layers; features silent before the step
    rows: int  # learned from, counted each time


@dataclass(frozen=True)
class CrossLayerTraining(Schedule):
    """How cross-layer transcoders are trained. Raises UsageError for settings out of range."""

    features: Annotated[int, "directions to learn in each layer"] = 1024
    sparsity: Annotated[float, "price of a feature that is on, as a share of one layer's variance"] = 0.003

    def __post_init__(self) -> None:
        check_least(
            self, {"features": 1, "sparsity": 0, "steps": 1, "batch": 1, "revive": 0, "save_every": 1, "seed": 0}
        )

    def train(
        self, source: Source, folder: Path | None = None, *, resume: bool = False, progress: Progress = silent
    ) -> TrainedTranscoders:
        """Learn from rows of (layer, width); with a `folder`, write circuit-tracer's there, and the state on the way.

        Raises UsageError for a folder that is not empty or a state of other settings, DataError for a layer that does
        not vary, NumericalError when the loss is no number any more.
        """
        claim(folder, resume, CONFIG)
        batches = Batches(source, self.batch)
        learner = JointLearner(batches.rows, self.features, seed=self.seed)

        def learn(step: int, rows: Rows) -> dict[str, float]:
            price = self.sparsity * (step + 1) / self.steps
            return learner.step(rows, rate(step, self.steps, self.features, self.lr), price)

        run = Run(self, asdict(self) | source.identity(), batches, learner, learn)
        run.finish(folder, resume, progress)
        found = TrainedTranscoders(_told(learner.transcoders(_model(source)), source), run.history, batches.seen)
        if folder is not None:
            about = {"training": asdict(self), "source": source.identity()}
            write_transcoders(found.transcoders, folder, about)
            (folder / STATE).unlink(missing_ok=True)
        return found


def size_of(features: int, layers: int, width: int) -> int:
    """Bytes of the weights in float32."""
    return 4 * layers * (features * width * (layers + 3) // 2 + 2 * features + width)


@torch.no_grad()
def measured_layers(transcoders: Transcoders, rows: Rows) -> list[dict[str, float]]:
    """Layer by layer FVU, features on at a time, the share that no row turns on, and the mean norm of the input."""
    found = [Fit(len(each)) for each in transcoders.layers]
    for start in range(0, len(rows), PART):
        part, decoding = rows[slice(start, start + PART)], Decoding(transcoders)
        for layer, (dictionary, fit) in enumerate(zip(transcoders.layers, found, strict=True)):
            x = part.x[:, layer].cpu()
            features = dictionary.encode(x)
            fit.add(features, x, part.y[:, layer].cpu(), decoding(layer, features, x))
    return [fit.measured() for fit in found]


def _told(transcoders: Transcoders, source: Source) -> Transcoders:
    facts = measured_layers(transcoders, source.held())
    layers = zip(transcoders.layers, facts, strict=True)
    return replace(transcoders, layers=tuple(replace(each, expected=own) for each, own in layers))


def _model(source: Source) -> str:
    return source.subject.name if isinstance(source, Branches) else ""
