"""Several processes as one: `accelerate launch` starts them, each takes its share of the rows."""

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from subcircuit.errors import MissingExtra
from subcircuit.parallel.group import reaching, require_same
from subcircuit.parallel.place import started

__all__ = ["Processes"]


class Processes:
    """This process among all of them; alone where nothing has started more.

    Raises MissingExtra, and in all that waits for others `Lost` when one of them ends.
    """

    def __init__(self) -> None:
        self.state: Any = None
        if started() > 1:
            if importlib.util.find_spec("accelerate") is None:
                raise MissingExtra("distilling in several processes", "accelerate")
            from accelerate import Accelerator  # type: ignore[import-untyped]

            with reaching():
                self.state = Accelerator()
        self.rank: int = self.state.process_index if self.state else 0
        self.count: int = self.state.num_processes if self.state else 1

    def sum(self, value: Tensor) -> Tensor:
        """Over all processes."""
        if not self.state:
            return value
        with reaching():
            summed: Tensor = self.state.reduce(value.to(self.state.device), reduction="sum")
        return summed.to(value.device)

    def every(self, values: Tensor) -> Tensor:
        """The values of all processes, one after another."""
        if not self.state:
            return values
        with reaching():
            lengths = self.state.gather(torch.tensor([len(values)], device=values.device)).tolist()
            self.lengths = lengths
            padded = torch.nn.functional.pad(values, (0, max(lengths) - len(values)))
            rows = self.state.gather(padded[None])
        return torch.cat([row[:length] for row, length in zip(rows, lengths, strict=True)])

    def own(self, count: int) -> slice:
        """Where this process's values lie in what `every` gave."""
        start = sum(self.lengths[: self.rank]) if self.state else 0
        return slice(start, start + count)

    def wait(self) -> None:
        if self.state:
            with reaching():
                self.state.wait_for_everyone()

    def require_same(self, values: Mapping[str, Any], called: Mapping[str, str]) -> None:
        """Raise UsageError, naming what differs, when two processes were started on different values."""
        if self.state:
            require_same(values, called, self._told)

    def _told(self, text: str) -> list[str]:
        from accelerate.utils import gather_object  # type: ignore[import-untyped]

        with reaching():
            found: list[str] = gather_object([text])
        return found
