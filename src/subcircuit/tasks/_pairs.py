"""Checked rows as tensors: the only place where a task's text becomes model input."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from subcircuit.subject import Prompts
from subcircuit.tasks._base import Continuations, Pairs
from subcircuit.tasks._report import Checked

__all__ = ["to_pairs"]

Tokens = tuple[int, ...]


def to_pairs(rows: Sequence[Checked], tokenizer: PreTrainedTokenizerBase) -> Pairs:
    """Rows padded on the right. The padding token is never attended to, so a tokenizer without one will do."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    mask = _padded([[1] * len(row.clean) for row in rows], 0).bool()
    at = torch.tensor([row.at for row in rows], dtype=torch.long)
    continued, right, wrong = _answers(rows)
    return Pairs(
        clean=Prompts(_padded([row.clean for row in rows], pad), mask, at),
        corrupt=Prompts(_padded([row.corrupt for row in rows], pad), mask, at),
        right=_padded(right, -1),
        wrong=_padded(wrong, -1),
        continued=continued,
    )


def _answers(rows: Sequence[Checked]) -> tuple[Continuations | None, list[Tokens], list[Tokens]]:
    """Answers of several tokens, where a row has some; right and wrong tokens, where one is enough for all rows."""
    sides = [row.continued or (tuple((t,) for t in row.right), tuple((t,) for t in row.wrong)) for row in rows]
    if all(len(answer) == 1 for row in sides for side in row for answer in side):
        right, wrong = ([tuple(t for answer in row[side] for t in answer) for row in sides] for side in (0, 1))
        return None, right, wrong
    continued = Continuations(*(_padded_answers([row[side] for row in sides]) for side in (0, 1)))
    return continued, [()] * len(rows), [()] * len(rows)


def _padded_answers(rows: Sequence[Sequence[Sequence[int]]]) -> Int[Tensor, "row most longest"]:
    most, longest = max(map(len, rows)), max(len(answer) for row in rows for answer in row)
    filled = [[*([*answer, *[-1] * (longest - len(answer))] for answer in row)] for row in rows]
    return torch.tensor([[*row, *[[-1] * longest] * (most - len(row))] for row in filled], dtype=torch.long)


def _padded(rows: Sequence[Sequence[int]], fill: int) -> Int[Tensor, "row longest"]:
    longest = max(map(len, rows), default=0)
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], dtype=torch.long)
