"""A user's own task: a JSONL or CSV file, one pair of prompts a row.

Columns: `clean`, `corrupt`, `answers`, `wrong_answers`, and optionally `split` and `position`. In CSV, several answers
are separated by "|". Without a split a row goes to train, validation or test (60/20/20) by a hash of its clean prompt,
so that it stays where it is when other rows come or go.

"continuations:FILE" is such a file whose answers may be several tokens; "winobias:FILE", "winogender:FILE" and
"counterfact:FILE" are published sets that the user has (see `_published`).
"""

import hashlib
import logging
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from transformers import PreTrainedTokenizerBase

from subcircuit.errors import DataError, UsageError
from subcircuit.tasks import FORMATS, PROMPT_FILES, _published, _records, in_file
from subcircuit.tasks._base import SPLITS, Pairs, Row, Split
from subcircuit.tasks._doctor import examine
from subcircuit.tasks._pairs import to_pairs
from subcircuit.tasks._report import Finding, Report

__all__ = ["FileTask"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileTask:
    """Pairs from a prompts file.

    Raises UsageError for a file that is not there or of another kind, DataError for one whose content has changed.
    """

    path: Annotated[str, "a .jsonl or .csv file of clean, corrupt, answers, wrong_answers; or FORMAT:FILE"]
    drop_bad: Annotated[bool, "drop and count bad rows instead of stopping at them"] = False
    sha256: Annotated[str, "of the file's content, which must be this one; its own when left out"] = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(self.path))  # a Path is welcome; a circuit's origin keeps text
        form, path = in_file(self.path) or ("", Path(self.path))
        if form in ("", "continuations") and path.suffix not in PROMPT_FILES:
            before = f"name it after what it holds, or write what it is before it: {', '.join(FORMATS)}, and a colon"
            raise UsageError(f"{path} is neither a .jsonl nor a .csv file", before)
        if not path.is_file():
            raise UsageError(f"there is no file {path}", "check the path of the prompts file")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if self.sha256 not in ("", found):
            raise DataError(
                f"{self.path} has changed since it was used (sha256 {self.sha256[:12]}..., now {found[:12]}...)",
                "bring back the file as it was, or find the circuit again with the new one",
            )
        object.__setattr__(self, "sha256", found)  # so that a circuit's origin names the very rows

    @property
    def name(self) -> str:
        """The file's path, its format before it."""
        return self.path

    def rows(self, tokenizer: PreTrainedTokenizerBase | None = None) -> list[Row | Finding]:
        """The file, row by row; what cannot be read as a row is a finding.

        Raises DataError for an empty file, UsageError for a CounterFact file without a tokenizer, by which its
        counterfactuals are chosen.
        """
        form, path = in_file(self.path) or ("", Path(self.path))
        published = _published.READERS.get(form)
        rows = published(path, tokenizer) if published else _records.read(path)
        if not rows:
            raise DataError(f"{self.path} has no rows", f"a row needs {', '.join(_records.NEEDED)}")
        return [replace(row, continued=bool(form)) if isinstance(row, Row) else row for row in rows]

    def examine(self, tokenizer: PreTrainedTokenizerBase) -> Report:
        """What the prompt doctor finds in the whole file."""
        return examine(self.rows(tokenizer), tokenizer)

    def pairs(self, tokenizer: PreTrainedTokenizerBase, n: int, *, seed: int = 0, split: Split = "train") -> Pairs:
        """At most `n` rows of a split, drawn by `seed`. Raises DataError for bad rows, or a split without rows."""
        report = self.examine(tokenizer)
        if not self.drop_bad:
            report.require(self.path)
        elif report.dropped:
            log.warning("%s: read %d rows, kept %d, dropped %d", self.path, report.read, report.kept, report.dropped)
        rows = [checked for checked in report.rows if checked.row.split == split]
        if not rows:
            counts = ", ".join(f"{name} {sum(found.row.split == name for found in report.rows)}" for name in SPLITS)
            cure = "add rows, or a split column that shares them out"
            raise DataError(f"{self.path} has no usable rows in its {split} split (there are: {counts})", cure)
        if len(rows) < n:
            log.info("%s has %d %s rows; %d were asked for, all are used", self.path, len(rows), split, n)
        return to_pairs(random.Random(f"{seed}/{split}").sample(rows, min(n, len(rows))), tokenizer)
