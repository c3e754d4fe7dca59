"""Texts as windows of tokens: what dictionaries are trained on and checked with."""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from subcircuit.errors import DataError, UsageError
from subcircuit.prompts import Prompts
from subcircuit.tasks._base import Split
from subcircuit.tasks._resolve import task as resolve

__all__ = ["Documents", "of_tasks", "read_texts", "windows"]

LOT = 256  # texts that are tokenized together

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Documents:
    """Windows of token ids, -1 after the end of a short one; four bytes a token."""

    ids: Int[Tensor, "window pos"]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice | Tensor) -> "Documents":
        return Documents(self.ids[rows])

    def prompts(self) -> Prompts:
        """As a model takes them; judged at each window's last token."""
        mask = self.ids >= 0
        return Prompts(self.ids.clamp(min=0).long(), mask, mask.sum(1) - 1)


def windows(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, window: int = 128) -> Documents:
    """Each text cut into windows of so many tokens. Raises DataError when nothing of two tokens or more is left."""
    found: list[Sequence[int]] = []
    waiting = iter(texts)
    while lot := list(islice(waiting, LOT)):
        for ids in tokenizer(lot, verbose=False).input_ids:
            parts = (ids[start : start + window] for start in range(0, len(ids), window))
            found += [part for part in parts if len(part) > 1]
    if not found:
        raise DataError("the texts hold no window of two tokens or more", "give longer texts, one a line")
    return _padded(found)


def of_tasks(tokenizer: PreTrainedTokenizerBase, names: Sequence[str], n: int, split: Split = "train") -> Documents:
    """The clean prompts of tasks, `n` of each. A task that this tokenizer cannot read is left out, and the log says so.

    Raises DataError when none is left.
    """
    found: list[Sequence[int]] = []
    for name in names:
        try:
            clean = resolve(name).pairs(tokenizer, n, split=split).clean
        except DataError as error:
            log.info("no prompts of %s: %s", name, error.message)
            continue
        found += [ids[mask].tolist() for ids, mask in zip(clean.ids, clean.mask, strict=True)]
    if not found:
        raise DataError(f"this tokenizer reads no prompt of: {', '.join(names)}", "give a text file")
    return _padded(found)


def read_texts(path: Path) -> Iterator[str]:
    """The lines of a text file, or the field `text` of a .jsonl file, one by one.

    Raises UsageError for a file that is not there, DataError for a line that is no such record or not UTF-8.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not a file", "give a text file, one text a line, or a .jsonl with the field text")
    with path.open(encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _record(line, f"line {number} of {path.name}") if path.suffix == ".jsonl" else line.strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{path.name} is not UTF-8: {error}", "save the file as UTF-8") from error


def _padded(found: Sequence[Sequence[int]]) -> Documents:
    ids = torch.full((len(found), max(map(len, found))), -1, dtype=torch.int32)
    for row, part in enumerate(found):
        ids[row, : len(part)] = torch.tensor(part, dtype=torch.int32)
    return Documents(ids)


def _record(line: str, where: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON: {error.msg}", "write one JSON object on one line") from error
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise DataError(f"{where} has no field 'text' that is a text", 'write {"text": "..."}')
    text: str = record["text"]
    return text
