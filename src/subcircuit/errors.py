"""One tree of errors: each carries the exit code of the command line and, where there is one, the cure.

The message says what is wrong and where; `cure` says what to do about it. The command line prints both, no traceback.
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "BudgetNotMet",
    "DataError",
    "Interrupted",
    "MissingExtra",
    "NumericalError",
    "ResourceError",
    "SubcircuitError",
    "UnknownName",
    "UnsupportedModel",
    "UsageError",
]


class SubcircuitError(Exception):
    """The root: anything this library refuses or cannot do."""

    exit_code = 1

    def __init__(self, message: str, cure: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.message}\n{self.cure}" if self.cure else self.message


class UsageError(SubcircuitError):
    """A wrong option, setting or file name."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that is in none of the tables, with the nearest one that is."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ";"
        super().__init__(f"no {what} '{name}'{hint} there are: {', '.join(names)}")
        self.known = names


class MissingExtra(UsageError):
    """A part that needs an optional dependency."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional dependency", f'pip install "subcircuit[{extra}]"')


class DataError(SubcircuitError):
    """Prompts or files that would give wrong numbers."""

    exit_code = 3


class ResourceError(SubcircuitError):
    """Memory, disk or a registry that is not there."""

    exit_code = 4


class UnsupportedModel(SubcircuitError):
    """A model whose parts this library cannot name with certainty."""

    exit_code = 5


class NumericalError(SubcircuitError):
    """NaN or infinity where a number must be."""

    exit_code = 6


class BudgetNotMet(SubcircuitError):
    """The best circuit misses its budget; it is saved all the same."""

    exit_code = 7


class Interrupted(SubcircuitError):
    """Stopped by the user; the run folder can be resumed."""

    exit_code = 130
