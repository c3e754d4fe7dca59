"""What the MLP branches of all layers take in and add, a chunk at a time: what cross-layer transcoders learn from."""

from typing import Any

import torch

from subcircuit.features.documents import Documents
from subcircuit.features.harvest import Harvest, Rows, record_rows
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject

__all__ = ["Branches"]


class Branches(Harvest):
    """Rows of (layer, width). `rows` counts tokens, each of which takes two numbers a layer and coordinate.

    Raises DataError for fewer than two windows with tokens to learn from.
    """

    def __init__(
        self,
        subject: Subject,
        documents: Documents,
        *,
        skip: int = 1,
        rows: int = 1 << 12,
        batch: int = 32,
        seed: int = 0,
    ) -> None:
        first, added = Site(0, Kind.MLP_IN), Site(0, Kind.MLP)
        super().__init__(subject, documents, first, added, skip=skip, rows=rows, batch=batch, seed=seed)
        self.layers = len(subject)

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"layers": self.layers}

    def recorded(self, documents: Documents) -> Rows:
        layers = range(self.layers)
        sites = [Site(layer, kind) for layer in layers for kind in (self.reads.kind, self.writes.kind)]
        found = record_rows(self.subject, documents, sites, skip=self.skip, batch=self.batch)
        x, y = (
            torch.stack([found[Site(layer, kind)] for layer in layers], 1)
            for kind in (self.reads.kind, self.writes.kind)
        )
        return Rows(x, y)
