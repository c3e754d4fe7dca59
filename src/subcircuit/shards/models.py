"""The model of a shard: told by name and weights, and loaded again where the shard is run."""

from subcircuit.errors import DataError
from subcircuit.loading import load
from subcircuit.shards.work import Inputs
from subcircuit.subject import Subject

__all__ = ["loaded", "named", "require_same"]


def named(subject: Subject) -> dict[str, str]:
    """What a job needs to load the same model, and a result depends on."""
    return {
        "model": subject.name,
        "revision": subject.revision,
        "dtype": str(subject.dtype).removeprefix("torch."),
    }


def loaded(shared: Inputs, device: str) -> Subject:
    """The model that `named` has told of. Raises as `load` does, and DataError when its weights are others."""
    local = shared["revision"].startswith("sha256:")
    revision = None if local else shared["revision"] or None
    subject = load(shared["model"], revision=revision, dtype=shared["dtype"], device=device)
    require_same(shared, named(subject))
    return subject


def require_same(shared: Inputs, here: Inputs) -> None:
    """Raise DataError, naming what differs, when a job would run on other inputs than it was made for."""
    changed = [name for name in here if here[name] != shared[name]]
    if changed:
        told = ", ".join(f"{name}: {shared[name]} -> {here[name]}" for name in changed)
        raise DataError(
            f"the job has other inputs than the command that started it ({told})",
            "give all machines the same files, and start the command again",
        )
