"""How long work tells of itself: the library calls, the command line draws."""

from typing import Protocol

__all__ = ["Progress", "silent"]


class Progress(Protocol):
    """Told after every step which phase is running, how far it is, and the numbers worth showing."""

    def __call__(self, phase: str, done: int, total: int, **facts: float) -> None: ...


def silent(phase: str, done: int, total: int, **facts: float) -> None:
    """Say nothing."""
