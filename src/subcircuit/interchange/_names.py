"""The words of EAP-IG and MIB for the parts of a decoder, beside ours.

"a3.h7" is our 3.head.7, "m3" our 3.mlp, "a5.h2<q>" our reader 5.q.2. They know every head's own key and value, also in
models where several heads share one; here a key/value head is one reader, so several of their readers are one of ours.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from subcircuit.sites import Kind, Site
from subcircuit.wiring import INPUT, LOGITS, PROJECTIONS, Wiring

__all__ = ["Peers"]


@dataclass(frozen=True)
class Peers:
    """The graph of a decoder in their names. Their tables have a row for every reader they know."""

    wiring: Wiring

    @cached_property
    def writers(self) -> tuple[str, ...]:
        """Their names of our writers, in our order; they are their nodes, but for the logits."""
        names = [INPUT]
        for layer in range(self.wiring.layers):
            names += [*self._heads(layer), f"m{layer}"]
        return tuple(names)

    @cached_property
    def readers(self) -> tuple[str, ...]:
        """Their readers, layer by layer: queries, keys, values, the MLP; then the logits."""
        names = []
        for layer in range(self.wiring.layers):
            names += [f"{head}<{kind}>" for kind in PROJECTIONS for head in self._heads(layer)]
            names.append(f"m{layer}")
        return (*names, LOGITS)

    @cached_property
    def ours(self) -> Int[Tensor, " theirs"]:
        """Our reader of each of theirs."""
        rows: list[int] = []
        for layer in range(self.wiring.layers):
            for kind in (*PROJECTIONS, Kind.MLP):
                shared = self.wiring.heads // self.wiring.groups if kind in (Kind.K, Kind.V) else 1
                here = self.wiring.rows(Site(layer, kind))
                rows += [row for row in range(here.start, here.stop) for _ in range(shared)]
        return torch.tensor([*rows, self.wiring.last.start])

    @cached_property
    def sharing(self) -> Int[Tensor, " ours"]:
        """How many of their readers each of ours stands for."""
        return self.ours.bincount()

    @cached_property
    def allowed(self) -> Bool[Tensor, "theirs writer"]:
        """Where they have an edge."""
        return self.wiring.allowed[self.ours]

    def name(self, reader: int, writer: int) -> str:
        """Their name of an edge."""
        return f"{self.writers[writer]}->{self.readers[reader]}"

    def nodes(self) -> dict[str, tuple[Site, int]]:
        """Where the heads and MLPs are, by their names."""
        found: dict[str, tuple[Site, int]] = {}
        for layer in range(self.wiring.layers):
            found |= {name: (Site(layer, Kind.HEAD), unit) for unit, name in enumerate(self._heads(layer))}
            found[f"m{layer}"] = (Site(layer, Kind.MLP), 0)
        return found

    def _heads(self, layer: int) -> list[str]:
        return [f"a{layer}.h{head}" for head in range(self.wiring.heads)]
