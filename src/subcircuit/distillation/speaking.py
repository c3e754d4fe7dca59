"""Prompts and responses: how they are read from files, and how teacher and student read the same text."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from subcircuit.errors import DataError, UsageError
from subcircuit.subject import Subject

__all__ = ["Ending", "Written", "read_prompts", "require_same_vocabulary"]


@dataclass(frozen=True)
class Written:
    """Prompts with their responses, padded on the right."""

    ids: Int[Tensor, "row pos"]
    mask: Bool[Tensor, "row pos"]  # False at padding
    response: Bool[Tensor, "row pos"]  # True at the tokens that are judged
    truncated: int = 0  # responses that did not end by themselves

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice) -> "Written":
        longest = int(self.mask[rows].sum(1).max())
        return Written(self.ids[rows, :longest], self.mask[rows, :longest], self.response[rows, :longest])

    @property
    def tokens(self) -> int:
        return int(self.response.sum())


@dataclass(frozen=True)
class Ending:
    """The tokens that end a text, and what the teacher's is where the student's is another."""

    stops: tuple[int, ...]  # the student's
    swap: tuple[int, int] | None = None  # the student's, the teacher's

    @classmethod
    def of(cls, student: PreTrainedModel, teacher: PreTrainedModel) -> "Ending":
        """From the generation configs. A stop that the teacher knows as one needs no exchange."""
        own, theirs = _stops(student), _stops(teacher)
        if not own or not theirs or own[0] in theirs:
            return cls(own)
        return cls(own, (own[0], theirs[0]))

    def for_teacher(self, ids: Int[Tensor, "row pos"], responses: Bool[Tensor, "row pos"]) -> Int[Tensor, "row pos"]:
        """The text as the teacher would have ended it."""
        if self.swap is None:
            return ids
        return torch.where(responses & (ids == self.swap[0]), self.swap[1], ids)

    def from_teacher(self, text: Written) -> Written:
        """What the teacher wrote, with the student's end."""
        if self.swap is None:
            return text
        ids = torch.where(text.response & (text.ids == self.swap[1]), self.swap[0], text.ids)
        return replace(text, ids=ids)

    def as_student(self, logits: Tensor) -> Tensor:
        """The teacher's logits with its end where the student has its own; the two change places."""
        if self.swap is None:
            return logits
        order = torch.arange(logits.shape[-1], device=logits.device)
        order[list(self.swap)] = order[list(self.swap[::-1])]
        return logits[..., order]


def read_prompts(path: Path, tokenizer: PreTrainedTokenizerBase, room: int) -> list[list[int]]:
    """Token ids of a file's prompts: a `.jsonl` file with the field `prompt` or `clean`, or one a line.

    Raises UsageError for a file that is not there; DataError for rows without a prompt or of more than `room` tokens.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}", "give a .jsonl file with the field prompt, or one prompt a line")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        ids = tokenizer(_prompt(line, path, number))["input_ids"]
        if not 0 < len(ids) <= room:
            raise DataError(
                f"{path}, line {number}: a prompt of {len(ids)} tokens; room is for 1 to {room} before the answer",
                "shorten it, or lower new_tokens",
            )
        found.append(list(ids))
    if not found:
        raise DataError(f"{path} holds no prompts", "write one a line")
    return found


def require_same_vocabulary(student: Subject, teacher: Subject) -> None:
    """Raises DataError where a token id does not mean the same to both."""
    own, theirs = student.tokenizer.get_vocab(), teacher.tokenizer.get_vocab()
    different = sorted(token for token in own.keys() | theirs.keys() if own.get(token) != theirs.get(token))
    if different:
        token = different[0]
        raise DataError(
            f"student and teacher have different vocabularies: {len(different)} tokens differ, the first "
            f"{token!r} ({own.get(token)} to the student, {theirs.get(token)} to the teacher)",
            "distil between models of one tokenizer",
        )
    sizes = [int(each.model.config.vocab_size) for each in (student, teacher)]
    if sizes[0] != sizes[1]:
        raise DataError(
            f"the student has {sizes[0]} logits, the teacher {sizes[1]}", "use models of one vocabulary size"
        )


def _prompt(line: str, path: Path, number: int) -> str:
    if path.suffix != ".jsonl":
        return line
    try:
        row = json.loads(line)
        text = row["prompt"] if "prompt" in row else row["clean"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{path}, line {number} has no prompt: {line[:60]}", '{"prompt": "..."}') from error
    return str(text)


def _stops(model: PreTrainedModel) -> tuple[int, ...]:
    config = model.generation_config
    found = config.eos_token_id if config is not None else model.config.eos_token_id
    return () if found is None else (found,) if isinstance(found, int) else tuple(found)
