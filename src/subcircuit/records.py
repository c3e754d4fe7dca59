"""`circuit.json` as models: where a circuit comes from, how large it is, which nodes it keeps. Imports no torch."""

import math
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from subcircuit.files import load_record

__all__ = ["CircuitFile", "Origin", "Size", "WiringFile", "missed", "versions"]

SCHEMA = 1


def versions() -> dict[str, str]:
    """What the numbers depend on besides the settings."""
    found = {name: version(name) for name in ("subcircuit", "torch", "transformers")}
    return {"python": platform.python_version(), **found}


class Origin(BaseModel):
    """Everything that is needed to make the same circuit again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="name the model was loaded by")
    revision: str = Field(description="commit or sha256 of its weights")
    family: str
    dtype: str
    task: str
    task_options: dict[str, Any] = Field(default_factory=dict)
    method: str
    settings: dict[str, Any] = Field(default_factory=dict)
    reference: str = Field(description="what fills a node that is off: corrupt, mean, zero or resample")
    seed: int
    pairs: dict[str, int] = Field(description="prompt pairs looked at, by split")
    versions: dict[str, str] = Field(default_factory=versions)
    seconds: float = Field(0.0, description="wall-clock time of the search")
    result: dict[str, float] = Field(default_factory=dict, description="numbers of the search itself, on validation")
    shared: str = Field(
        default="", description="where it was fetched from, as hub repository@commit; empty if it was not"
    )


class Size(BaseModel):
    """Nodes of one kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kept: int
    total: int

    @property
    def fraction(self) -> float:
        return self.kept / self.total


class WiringFile(BaseModel):
    """The graph of a decoder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: int
    heads: int = Field(description="per layer")
    groups: int = Field(description="key/value heads per layer")
    parallel: bool = Field(description="the MLP reads what its layer's attention reads")
    joined: bool = Field(default=False, description="a norm spans the queries, and the keys, of all heads")


class CircuitFile(BaseModel):
    """`circuit.json`."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA
    origin: Origin
    layers: int
    units: dict[str, int] = Field(description="units of a site, by kind")
    sizes: dict[str, Size]
    nodes: dict[str, list[str]] = Field(description="kept nodes by kind, for example 9.head.6")
    wiring: WiringFile | None = Field(None, description="of circuits of edges: the graph they are edges of")
    edges: list[str] | None = Field(None, description="kept edges, for example 3.head.7->5.q.2")
    positions: dict[str, list[str]] | None = Field(
        None, description="of nodes that are kept at some positions only: the kept nodes of each part of the positions"
    )

    @classmethod
    def read(cls, folder: Path) -> Self:
        """A folder's `circuit.json`. Raises DataError when it is missing, broken or of another schema version."""
        finder = "give a folder that `subcircuit find` wrote"
        return load_record(cls, folder / "circuit.json", "a circuit", missing=finder, broken="find the circuit again")


def missed(result: Mapping[str, float]) -> bool:
    """Whether a search's result breaks the goal it names: a budget for KL, or a size for the cost."""
    return result["kl"] > result.get("budget", math.inf) or result.get("cost", 0.0) > result.get("size", math.inf)
