"""What a method is, and what every method starts from."""

from pathlib import Path
from typing import Protocol

from subcircuit.circuit import Circuit
from subcircuit.progress import Progress, silent
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs, Task

__all__ = ["Method"]


class Method(Protocol):
    """A way to find circuits. Its dataclass fields are its settings, spelled for the reader and the command line."""

    def find(
        self,
        subject: Subject,
        task: Task,
        pairs: Pairs | None = None,
        *,
        folder: Path | None = None,
        progress: Progress = silent,
    ) -> Circuit:
        """The circuit of `task` in `subject`.

        `pairs` are the discovery prompts, drawn from the task's train split when left out. A `folder` keeps the state
        of the search, and a search whose state it holds goes on from there.
        """
        ...
