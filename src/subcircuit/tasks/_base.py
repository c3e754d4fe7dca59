"""What a task is: clean and corrupted prompts that align token by token, and what counts as a right answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from subcircuit.subject import Prompts

__all__ = ["SPLITS", "Continuations", "Pairs", "Row", "Split", "Task"]

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Row:
    """One pair of prompts as text. Every task, built in or a user's file, is written in rows.

    In a decoder's prompt the judged token is the last one. In an encoder's it is the mask token, which the text holds.
    """

    clean: str
    corrupt: str
    answers: tuple[str, ...]  # right continuations of the clean prompt, a leading space included where there is one
    wrong_answers: tuple[str, ...]
    split: Split = "train"
    # judged token: its index, special tokens counted, or a substring of the clean prompt whose last token it is
    position: int | str | None = None
    source: str = ""  # where it came from: "row 12 of prompts.jsonl"
    continued: bool = False  # answers may be several tokens, and follow the whole prompt


@dataclass(frozen=True)
class Continuations:
    """Answers of several tokens, which follow the prompt; -1 fills short answers, and rows of few answers."""

    right: Int[Tensor, "pair answer token"]
    wrong: Int[Tensor, "pair answer token"]

    def __getitem__(self, rows: Sequence[int] | slice | Tensor) -> "Continuations":
        return Continuations(self.right[rows], self.wrong[rows])


@dataclass(frozen=True)
class Pairs:
    """Clean and corrupted prompts, row by row of equal length, with the answers that tell them apart."""

    clean: Prompts
    corrupt: Prompts
    right: Int[Tensor, "pair answer"]  # token ids of right answers to the clean prompt; -1 fills short rows
    wrong: Int[Tensor, "pair answer"]
    continued: Continuations | None = None  # where answers are several tokens; then there are none in `right`, `wrong`

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, rows: Sequence[int] | slice | Tensor) -> "Pairs":
        continued = self.continued[rows] if self.continued else None
        return Pairs(self.clean[rows], self.corrupt[rows], self.right[rows], self.wrong[rows], continued)


class Task(Protocol):
    """A source of pairs. Its dataclass fields are its options."""

    @property
    def name(self) -> str:
        """The key it is found by, or the path of its file."""
        ...

    def pairs(self, tokenizer: PreTrainedTokenizerBase, n: int, *, seed: int = 0, split: Split = "train") -> Pairs:
        """`n` pairs of one split, for any tokenizer. Same arguments, same pairs."""
        ...
