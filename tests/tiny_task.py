"""A planted circuit and the task over its model, made once."""

from functools import cache

from subcircuit.ground_truth.planted import RandomTask, planted
from subcircuit.subject import Subject

__all__ = ["RandomTask", "planted_study"]


@cache
def planted_study(family: str = "llama") -> tuple[Subject, RandomTask]:
    """A model with a planted circuit, and the task over it."""
    subject = planted(family)
    return subject, RandomTask(subject)
