"""From a name or a file to a task."""

from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from subcircuit import plugins
from subcircuit.errors import UsageError
from subcircuit.tasks import in_file
from subcircuit.tasks._base import Task
from subcircuit.tasks._file import FileTask

__all__ = ["task"]


def task(name: str | Path, **options: Any) -> Task:
    """The built-in task of this name, or the task in a file (`.jsonl`, `.csv` or `FORMAT:PATH`), with its options set.

    Raises UnknownName for a name that is neither, UsageError for an option that the task does not have.
    """
    if in_file(name):
        _check(str(name), FileTask, {"path": name, **options})
        return FileTask(str(name), **options)
    kind = plugins.load("tasks", str(name))
    _check(str(name), kind, options)
    made: Task = kind(**options)
    return made


def _check(name: str, kind: type, options: dict[str, Any]) -> None:
    known = [field.name for field in fields(kind)]
    for option in options:
        if option not in known:
            near = get_close_matches(option, known, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ";"
            has = ", ".join(known) or "none"
            raise UsageError(f"task '{name}' has no option '{option}'{hint} it has: {has}")
