"""Which of several processes this one is, as `accelerate launch` and `torchrun` tell it. Imports no torch."""

import os

from subcircuit.errors import ResourceError, UsageError

__all__ = ["Lost", "require_shared", "started", "started_as", "tells"]

SHARED = ("find", "score", "distill")  # verbs whose work processes share out
SAYING = 2  # processes that tell of a lost one; the others would only repeat it


class Lost(ResourceError):
    """Another process has ended, or does not answer."""


def started() -> int:
    """How many processes were started together; 1 where nothing has started more."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def started_as() -> int:
    """The number of this one among them, from 0."""
    return int(os.environ.get("RANK", "0")) if started() > 1 else 0


def require_shared(verb: str) -> None:
    """Raise UsageError for a verb that each of several processes would run as a whole, into the same files."""
    if started() > 1 and verb not in SHARED:
        raise UsageError(
            f"{verb} in {started()} processes: each of them would do all of its work, and write the same files",
            f"start it in one process; several share the work of {', '.join(SHARED)}",
        )


def tells(error: Exception) -> bool:
    """Whether this process is one that tells the user of an error."""
    return not isinstance(error, Lost) or started_as() < SAYING
