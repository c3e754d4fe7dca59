"""Several processes as one: `accelerate launch` starts them, each takes its share of the rows."""

import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from subcircuit.errors import MissingExtra

__all__ = ["Processes"]


class Processes:
    """This process among all of them; alone where nothing has started more. Raises MissingExtra."""

    def __init__(self) -> None:
        self.state: Any = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            if importlib.util.find_spec("accelerate") is None:
                raise MissingExtra("distilling in several processes", "accelerate")
            from accelerate import Accelerator  # type: ignore[import-untyped]

            self.state = Accelerator()
        self.rank: int = self.state.process_index if self.state else 0
        self.count: int = self.state.num_processes if self.state else 1

    def sum(self, value: Tensor) -> Tensor:
        """Over all processes."""
        if not self.state:
            return value
        summed: Tensor = self.state.reduce(value.to(self.state.device), reduction="sum")
        return summed.to(value.device)

    def every(self, values: Tensor) -> Tensor:
        """The values of all processes, one after another."""
        if not self.state:
            return values
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
            self.state.wait_for_everyone()
