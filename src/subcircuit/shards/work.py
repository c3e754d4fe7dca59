"""What a shard is: a function of its inputs alone, known by the hash of them.

Inputs are plain JSON. What is large (a circuit, prompts) is told to the jobs besides, and stands in the inputs as a
digest. The hash takes in this library's own source too, so that no result outlives the code that made it.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from subcircuit.records import versions

__all__ = ["Begin", "Inputs", "Result", "Shard", "Work", "digest", "source"]

Inputs: TypeAlias = Mapping[str, Any]  # JSON
Result: TypeAlias = dict[str, Tensor]
Begin: TypeAlias = Callable[[Inputs, Any], Callable[[Inputs], Result]]


@dataclass(frozen=True)
class Shard:
    """One piece of work."""

    key: str  # hash of all it depends on
    inputs: Inputs  # those that it does not share with others


@dataclass(frozen=True)
class Work:
    """Pieces of one kind, which have all but a few inputs in common.

    `begin` gets `shared` and `given`, once in every job, and returns what makes a piece's result of the piece. A job
    must be able to import it. No number may depend on what is in `given` and not, as a digest, in `shared`.
    """

    name: str  # of the folder that its results lie in
    begin: Begin
    shared: Inputs
    pieces: Sequence[Inputs]
    given: Any

    @property
    def function(self) -> str:
        """What a shard runs, by name."""
        return f"{self.begin.__module__}:{self.begin.__qualname__}"

    @cached_property
    def shards(self) -> list[Shard]:
        """The pieces with their keys."""
        common = {"function": self.function, "shared": self.shared, "source": source(), "versions": versions()}
        return [Shard(_hashed({**common, "piece": piece}), piece) for piece in self.pieces]


def digest(*tensors: Tensor) -> str:
    """A hash of shapes and contents."""
    found = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous()
        found.update(f"{flat.dtype} {tuple(flat.shape)}".encode())
        found.update(flat.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:32]


@lru_cache(maxsize=1)
def source() -> str:
    """A hash of the library's own source files."""
    root = Path(__file__).parents[1]
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()[:32]


def _hashed(values: Inputs) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:32]
