"""Files that are there whole or not at all, and records in JSON of which a wrong one says what is wrong with it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError

from subcircuit.errors import DataError, ResourceError

__all__ = ["atomically", "load_record", "save_record"]

Record = TypeVar("Record", bound=BaseModel)


def atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the place and move there. Raises ResourceError when the disk is full."""
    beside = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(beside)
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        if beside.is_file():
            beside.unlink()
        raise ResourceError(
            f"{path} cannot be written: {error}", "make room and start again as before; what is there is kept"
        ) from error


def save_record(record: BaseModel, path: Path, *, indent: int | None = 1) -> None:
    """Write a record as JSON. Raises ResourceError."""
    text = record.model_dump_json(indent=indent) + "\n"
    atomically(path, lambda to: to.write_text(text, encoding="utf-8"))


def load_record(kind: type[Record], path: Path, what: str, *, missing: str, broken: str) -> Record:
    """Read a record back; `what` says what the file should be, `missing` and `broken` are the cures.

    Raises DataError when it is missing, no such record, or of another schema version than `kind` writes.
    """
    try:
        found = kind.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing", missing) from error
    except (ValidationError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path} is not {what}: {_in_a_line(error)}", broken) from error
    written, read = getattr(found, "schema_version", None), kind.model_fields.get("schema_version")
    if read is not None and written != read.default:
        raise DataError(f"{path} has schema version {written}; this version reads {read.default}", broken)
    return found


def _in_a_line(error: Exception) -> str:
    """What pydantic spreads over a page: the first few places and what is wrong there."""
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(
        f"{'.'.join(map(str, each['loc'])) or 'the whole'}: {each['msg']}"
        for each in error.errors(include_url=False)[:3]
    )
