"""What the prompt doctor hands back: findings that show the tokens, and the rows that may be used."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from subcircuit.errors import DataError
from subcircuit.tasks._base import Row

__all__ = ["Checked", "Finding", "Report", "side_by_side"]

WARNINGS = ("duplicate", "answer-space")
SHOWN = 3  # findings in an error message
REPAIR = "repair them, or drop and count them: --drop-bad (in Python: drop_bad=True)"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one row."""

    row: str  # "row 12 of prompts.jsonl"
    code: str  # "token-counts", "answer-tokens", ...
    cause: str
    cure: str
    clean_tokens: tuple[str, ...] = ()
    corrupt_tokens: tuple[str, ...] = ()

    @property
    def level(self) -> Literal["error", "warning"]:
        """A row with an error is dropped or refused; one with only warnings is kept."""
        return "warning" if self.code in WARNINGS else "error"

    def __str__(self) -> str:
        lines = [f"{self.row}: {self.cause}", *side_by_side(self.clean_tokens, self.corrupt_tokens), f"  {self.cure}"]
        return "\n".join(lines)


@dataclass(frozen=True)
class Checked:
    """A row that may be used, as token ids."""

    row: Row
    clean: tuple[int, ...]
    corrupt: tuple[int, ...]
    at: int  # index of the judged token, the same in both prompts
    right: tuple[int, ...]
    wrong: tuple[int, ...]
    # with answers of several tokens: the right and the wrong ones, each as its tokens
    continued: tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]] | None = None


@dataclass(frozen=True)
class Report:
    """What the doctor found. `kept + dropped == read`."""

    read: int  # rows looked at, readable or not
    kept: int
    dropped: int
    findings: tuple[Finding, ...]
    rows: tuple[Checked, ...]  # the kept ones, in order

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that drop a row."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    def require(self, what: str, cure: str = REPAIR) -> None:
        """Raise DataError with the first findings if a row was dropped. `what` names the source of the rows."""
        if not self.dropped:
            return
        first = "\n".join(str(finding) for finding in self.errors[:SHOWN])
        rest = f"\n... and {len(self.errors) - SHOWN} more" if len(self.errors) > SHOWN else ""
        raise DataError(
            f"{self.dropped} of {self.read} rows of {what} cannot be used (kept {self.kept})\n{first}{rest}", cure
        )


def side_by_side(clean: Sequence[str], corrupt: Sequence[str], width: int = 96) -> list[str]:
    """Two rows of tokens in columns, with marks under those that differ; folded at `width` characters."""
    folds: list[list[tuple[str, str]]] = [[]]
    used = 0
    for pair in _columns(clean, corrupt):
        size = max(map(len, pair)) + 1
        if used and used + size > width:
            folds.append([])
            used = 0
        folds[-1].append(pair)
        used += size
    return [line for fold in folds if fold for line in _lines(fold)]


def _lines(pairs: Sequence[tuple[str, str]]) -> list[str]:
    sizes = [max(map(len, pair)) for pair in pairs]
    rows = ["|".join(f"{pair[side]:<{size}}" for pair, size in zip(pairs, sizes, strict=True)) for side in (0, 1)]
    marks = " ".join((" " if a == b else "^") * size for (a, b), size in zip(pairs, sizes, strict=True))
    lines = [f"  clean   {rows[0]}", f"  corrupt {rows[1]}", f"          {marks}".rstrip()]
    return lines if lines[-1] else lines[:-1]


def _columns(clean: Sequence[str], corrupt: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Tokens paired off; where one prompt has more, the other has a gap."""
    matcher = difflib.SequenceMatcher(a=clean, b=corrupt, autojunk=False)
    for _, start, stop, begin, end in matcher.get_opcodes():
        left, right = clean[start:stop], corrupt[begin:end]
        for i in range(max(len(left), len(right))):
            yield left[i] if i < len(left) else "", right[i] if i < len(right) else ""
