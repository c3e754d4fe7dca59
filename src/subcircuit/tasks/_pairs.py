"""Checked rows as tensors: the only place where a task's text becomes model input."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from subcircuit.subject import Prompts
from subcircuit.tasks._base import Pairs
from subcircuit.tasks._report import Checked

__all__ = ["to_pairs"]


def to_pairs(rows: Sequence[Checked], tokenizer: PreTrainedTokenizerBase) -> Pairs:
    """Rows padded on the right. The padding token is never attended to, so a tokenizer without one will do."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    mask = _padded([[1] * len(row.clean) for row in rows], 0).bool()
    at = torch.tensor([row.at for row in rows], dtype=torch.long)
    return Pairs(
        clean=Prompts(_padded([row.clean for row in rows], pad), mask, at),
        corrupt=Prompts(_padded([row.corrupt for row in rows], pad), mask, at),
        right=_padded([row.right for row in rows], -1),
        wrong=_padded([row.wrong for row in rows], -1),
    )


def _padded(rows: Sequence[Sequence[int]], fill: int) -> Int[Tensor, "row longest"]:
    longest = max(map(len, rows), default=0)
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], dtype=torch.long)
