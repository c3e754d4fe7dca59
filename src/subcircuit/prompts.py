"""Prompts as a model takes them, and the position at which it is judged."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

__all__ = ["Prompts"]


@dataclass(frozen=True)
class Prompts:
    """Token ids, padded on the right, and the position whose logits are judged."""

    ids: Int[Tensor, "prompt pos"]
    mask: Bool[Tensor, "prompt pos"]  # False at padding
    at: Int[Tensor, " prompt"]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Sequence[int] | slice | Tensor) -> "Prompts":
        """Some rows, cut to the longest of them."""
        mask = self.mask[rows]
        longest = int(mask.sum(1).max()) if len(mask) else 0
        return Prompts(self.ids[rows][:, :longest], mask[:, :longest], self.at[rows])

    def to(self, device: torch.device | str) -> "Prompts":
        return replace(self, ids=self.ids.to(device), mask=self.mask.to(device), at=self.at.to(device))

    @cached_property
    def lengths(self) -> Int[Tensor, " prompt"]:
        return self.mask.sum(1)
