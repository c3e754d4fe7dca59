"""A circuit file of EAP-IG or MIB as checked values: `cfg`, `nodes` and `edges`, not yet held against any graph.

Python's JSON reader keeps the last of two equal names and takes NaN for a number; both would pass for a circuit, and
both are refused here.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subcircuit.errors import DataError

__all__ = ["CFG", "Document", "Entry", "read_document"]

CFG: Mapping[str, type] = {"n_layers": int, "n_heads": int, "parallel_attn_mlp": bool, "d_model": int}
WRITTEN_BY = "write it with EAP-IG's Graph.to_json, or with subcircuit export"
TALLY = {"cfg", "nodes", "edges"}


@dataclass(frozen=True)
class Entry:
    """What a file says of one node or edge."""

    score: float | None  # None: the file has no score for it; nan: it says that there is none
    in_graph: bool


@dataclass(frozen=True)
class Document:
    """A file's content. `where` is its name, for messages."""

    where: str
    cfg: Mapping[str, Any]
    nodes: Mapping[str, Entry]
    edges: Mapping[str, Entry]


def read_document(path: str | Path) -> Document:
    """A file's content. Raises DataError for anything in it that is not a circuit, naming the field."""
    path = Path(path)
    if path.suffix == ".pt":
        raise DataError(
            f"{path} is a .pt file, and reading one may run any code", "save the graph as .json: graph.to_json(name)"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}", "check its path") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON: {error}", WRITTEN_BY) from error
    except _Twice as error:
        raise DataError(f"{path}: '{error}' is there twice", "leave one of them: which one is meant?") from error
    if not isinstance(content, dict) or not set(content) >= TALLY:
        there = ", ".join(sorted(content)) if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{path} is not a circuit: it needs cfg, nodes and edges, and has {there or 'nothing'}")
    nodes, edges = (_entries(str(path), what, content[what]) for what in ("nodes", "edges"))
    return Document(str(path), _cfg(str(path), content["cfg"]), nodes, edges)


class _Twice(ValueError):
    """A name that is twice in one object."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        raise _Twice(next(name for name, _ in pairs if name in seen or seen.add(name)))  # type: ignore[func-returns-value]
    return found


def _cfg(where: str, cfg: Any) -> dict[str, Any]:
    if not isinstance(cfg, dict):
        raise DataError(f"{where}: cfg is no object", WRITTEN_BY)
    for name, kind in CFG.items():
        if name not in cfg:
            raise DataError(f"{where}: cfg has no field '{name}'", WRITTEN_BY)
        if type(cfg[name]) is not kind:
            raise DataError(f"{where}: cfg's {name} is {cfg[name]!r}, and should be of type {kind.__name__}")
    return cfg


def _entries(where: str, what: str, table: Any) -> dict[str, Entry]:
    if not isinstance(table, dict):
        raise DataError(f"{where}: {what} is no object", WRITTEN_BY)
    return {name: _entry(where, f"{what[:-1]} '{name}'", fields) for name, fields in table.items()}


def _entry(where: str, what: str, fields: Any) -> Entry:
    if not isinstance(fields, dict) or not isinstance(fields.get("in_graph"), bool):
        raise DataError(f"{where}: {what} has no field 'in_graph' that is true or false", WRITTEN_BY)
    if "neurons" in fields:
        raise DataError(
            f"{where}: {what} lists neurons: a circuit of residual-stream dimensions has no counterpart here",
            "export it at the level of edges or nodes",
        )
    score = fields.get("score")
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
        raise DataError(f"{where}: the score of {what} is {score!r}, no number")
    if score is not None and math.isinf(score):
        raise DataError(f"{where}: the score of {what} is infinite", "compute the scores again in float32")
    return Entry(None if score is None else float(score), fields["in_graph"])
