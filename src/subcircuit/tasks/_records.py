"""Prompt files as rows: JSONL and CSV, with a finding in the place of each record that is no row.

A record's number is its line in JSONL, and counts from the first line below the header in CSV.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from subcircuit.tasks._base import SPLITS, Row, Split
from subcircuit.tasks._report import Finding

__all__ = ["NEEDED", "read", "share"]

NEEDED = ("clean", "corrupt", "answers", "wrong_answers")
OPTIONAL = ("split", "position")
INDEX = re.compile("-?[0-9]{1,9}")  # a position that is no substring of the prompt
SURPLUS = ""  # where the CSV reader puts cells that have no header


class _Fault(ValueError):
    """Why a record is no row: code, cause, cure."""


Record = Mapping[str, Any]


def read(path: Path) -> list[Row | Finding]:
    """Every record of a `.jsonl` or `.csv` file, in order."""
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")  # spreadsheets write a byte order mark
    records = _csv(content) if path.suffix == ".csv" else _jsonl(content)
    return [_row_or_finding(record, f"row {number} of {path.name}") for number, record in records]


def share(clean: str) -> Split:
    """The split of a row that names none, by a hash of its clean prompt."""
    part = hashlib.sha256(clean.encode()).digest()[0] / 256
    return "train" if part < 0.6 else "validation" if part < 0.8 else "test"


def _row_or_finding(record: Record | _Fault, source: str) -> Row | Finding:
    try:
        if isinstance(record, _Fault):
            raise record
        return _row(record, source)
    except _Fault as fault:
        return Finding(source, *fault.args)


def _jsonl(content: bytes) -> Iterator[tuple[int, Record | _Fault]]:
    for number, line in enumerate(content.splitlines(), start=1):
        if line.strip():
            yield number, _json(line)


def _json(line: bytes) -> Record | _Fault:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return _Fault("encoding", f"not UTF-8 at byte {error.start + 1} of the line", "save the file as UTF-8")
    except json.JSONDecodeError as error:
        cause = f"malformed JSON at character {error.pos + 1}: {error.msg}"
        return _Fault("json", cause, "write one JSON object on one line")
    except ValueError:  # all else that Python refuses
        return _Fault("json", "a number of too many digits", "write one JSON object of texts on one line")
    if not isinstance(record, dict):
        return _Fault(
            "json", f"a JSON {type(record).__name__}, not an object", f"write {{...}} with {', '.join(NEEDED)}"
        )
    return {name: value for name, value in record.items() if value is not None}


def _csv(content: bytes) -> Iterator[tuple[int, Record | _Fault]]:
    # a byte that is not UTF-8 travels as a surrogate, so that it spoils its own row only
    text = io.StringIO(content.decode("utf-8", errors="surrogateescape"), newline="")
    number = 0
    try:
        for number, record in enumerate(csv.DictReader(text, restkey=SURPLUS), start=1):
            yield number, _cells(record)
    except csv.Error as error:
        yield number + 1, _Fault("csv", f"malformed CSV, nothing after it was read: {error}", "quote the cell")


def _cells(record: Record) -> Record:
    cells = {name: value for name, value in record.items() if value is not None and (value or name not in OPTIONAL)}
    for name in ("answers", "wrong_answers"):
        if name in cells:
            cells[name] = cells[name].split("|")
    position = cells.get("position", "")
    return cells | {"position": int(position)} if INDEX.fullmatch(position) else cells


def _row(record: Record, source: str) -> Row:
    _check_columns(record)
    clean = _text(record, "clean")
    return Row(
        clean=clean,
        corrupt=_text(record, "corrupt"),
        answers=_texts(record, "answers"),
        wrong_answers=_texts(record, "wrong_answers"),
        split=_split(record, clean),
        position=_position(record),
        source=source,
    )


def _check_columns(record: Record) -> None:
    known = (*NEEDED, *OPTIONAL)
    if SURPLUS in record:
        raise _Fault("columns", "more cells than the header has", 'quote cells that hold commas: "..."')
    if missing := [name for name in NEEDED if name not in record]:
        raise _Fault("columns", f"no {', '.join(missing)}", f"a row needs {', '.join(NEEDED)}")
    if unknown := [name for name in record if name not in known]:
        near = get_close_matches(unknown[0], known, n=1)
        cure = f"did you mean {near[0]!r}?" if near else "take it out;"
        raise _Fault("columns", f"unknown column {unknown[0]!r}", f"{cure} there are: {', '.join(known)}")


def _text(record: Record, name: str) -> str:
    value = record[name]
    if not isinstance(value, str):
        raise _Fault("types", f"{name} is {json.dumps(value)}, not a text", "write it in quotes")
    _check_encoding(name, value)
    return value


def _texts(record: Record, name: str) -> tuple[str, ...]:
    value = record[name]
    several = [value] if isinstance(value, str) else value
    if not isinstance(several, list) or not all(isinstance(text, str) for text in several):
        raise _Fault("types", f"{name} is {json.dumps(value)}, not a list of texts", 'write ["...", "..."]')
    for text in several:
        _check_encoding(name, text)
    return tuple(several)


def _check_encoding(name: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _Fault("encoding", f"{name} is not UTF-8 at character {error.start + 1}", "save it as UTF-8") from error


def _split(record: Record, clean: str) -> Split:
    name = record.get("split")
    if name is None:
        return share(clean)
    if name not in SPLITS:
        near = get_close_matches(str(name), SPLITS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise _Fault("split", f"there is no split {name!r}", f"{hint}there are: {', '.join(SPLITS)}")
    return cast(Split, name)


def _position(record: Record) -> int | str | None:
    value = record.get("position")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | str)):
        raise _Fault(
            "types", f"position is {json.dumps(value)}", "give a token index or a substring of the clean prompt"
        )
    if isinstance(value, str):
        _check_encoding("position", value)
    return value
