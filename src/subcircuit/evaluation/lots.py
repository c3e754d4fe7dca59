"""What one generator draws, one after the other, by number: a number names the same draw in every process."""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

__all__ = ["Lots"]

T = TypeVar("T")


class Lots(Generic[T]):
    """Draws by number. In rising order each is made once; those that are left out are drawn and let go."""

    def __init__(self, draw: Callable[[torch.Generator], T], seed: int) -> None:
        self.draw, self.seed = draw, seed
        self.generator, self.next = torch.Generator().manual_seed(seed), 0

    def __getitem__(self, number: int) -> T:
        if number < self.next:
            self.generator, self.next = torch.Generator().manual_seed(self.seed), 0
        while self.next < number:
            self.draw(self.generator)
            self.next += 1
        self.next += 1
        return self.draw(self.generator)
