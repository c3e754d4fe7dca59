"""Texts with or without labels, from a file, and the words in them."""

import csv
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from subcircuit.errors import DataError, UsageError

__all__ = ["Corpus", "read_corpus", "words_of"]

log = logging.getLogger(__name__)

WORD = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]+")  # a run of punctuation is one word
FIELDS = ("text", "label")


@dataclass(frozen=True)
class Corpus:
    """Texts and, where the file has them, their labels."""

    texts: tuple[str, ...]
    labels: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def first(self, n: int | None) -> "Corpus":
        """Its first `n` texts; all of them for None."""
        return Corpus(self.texts[:n], self.labels and self.labels[:n])


def words_of(text: str) -> list[tuple[int, int]]:
    """Where each word begins and ends."""
    return [found.span() for found in WORD.finditer(text)]


def read_corpus(path: Path) -> Corpus:
    """The lines of a text file, or the fields `text` and `label` of a .jsonl or .csv file. Empty texts are left out.

    Raises UsageError for a file that is not there, DataError for rows that cannot be read, for labels that only some
    rows have, and for a file without a text.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not a file", "give texts, one a line, or a .jsonl or .csv with text and label")
    readers = {".jsonl": _jsonl, ".csv": _csv}
    try:
        rows = list(readers.get(path.suffix, _plain)(path))
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8: {error}", "save the file as UTF-8") from error
    full = [(text.strip(), label, where) for text, label, where in rows if text.strip()]
    if len(full) < len(rows):
        log.warning("%s: %d of %d texts are empty and left out", path.name, len(rows) - len(full), len(rows))
    if not full:
        raise DataError(f"{path.name} holds no text", "give texts, one a line, or a .jsonl or .csv with the field text")
    bare = [where for _, label, where in full if label is None]
    if bare and len(bare) < len(full):
        raise DataError(f"{bare[0]} of {path.name} has no label, and others have one", "label every text or none")
    return Corpus(tuple(text for text, _, _ in full), None if bare else tuple(str(label) for _, label, _ in full))


Row = tuple[str, str | None, str]  # text, label, where it stands


def _plain(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            yield line, None, f"line {number}"


def _jsonl(path: Path) -> Iterator[Row]:
    for line, _, where in _plain(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where} of {path.name} is not JSON: {error.msg}", "one JSON object a line") from error
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise DataError(f"{where} of {path.name} has no field 'text' that is a text", 'write {"text": "..."}')
        label = record.get("label")
        yield record["text"], None if label is None else str(label), where


def _csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines)
        if "text" not in (rows.fieldnames or []):
            raise DataError(f"{path.name} has the columns {rows.fieldnames}", f"name them {' and '.join(FIELDS)}")
        for row in rows:
            yield row["text"] or "", row.get("label") or None, f"line {rows.line_num}"
