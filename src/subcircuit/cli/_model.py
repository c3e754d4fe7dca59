"""The model that a circuit was found in, for verbs that go on with it."""

from typing import TYPE_CHECKING

from subcircuit.cli._shell import Screen
from subcircuit.errors import DataError
from subcircuit.progress import Progress
from subcircuit.records import Origin

if TYPE_CHECKING:
    from subcircuit.subject import Subject

__all__ = ["model_of"]


def model_of(origin: Origin, device: str, force: bool, screen: Screen, progress: Progress) -> "Subject":
    """Load it. Raises DataError when its weights are others by now, unless `force` takes them all the same."""
    from subcircuit.loading import load

    screen.silence_transformers()
    local = origin.revision.startswith("sha256:")
    revision = None if local or force else origin.revision or None
    subject = load(origin.model, revision=revision, dtype=origin.dtype, device=device, progress=progress)
    if subject.revision != origin.revision and not force:
        raise DataError(
            f"{origin.model} has other weights than those the circuit was found in: {subject.revision}, "
            f"not {origin.revision}",
            "bring back the weights, find the circuit again, or go on with these weights: --force",
        )
    return subject
