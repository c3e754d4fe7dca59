"""Activations of a subject, a chunk at a time: what dictionaries learn from. No more than one chunk is ever there.

Chunks are windows of text in an order that each epoch draws anew; a chunk's rows, one a token, are shuffled. Both are
functions of the seed, the epoch and the chunk, so that any chunk can be made again. Some windows are held out.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.batching import batched
from subcircuit.errors import DataError, NumericalError
from subcircuit.features.documents import Documents
from subcircuit.features.hooks import hook_name
from subcircuit.layout import Edit
from subcircuit.prompts import Prompts
from subcircuit.sites import Site
from subcircuit.subject import Subject

__all__ = ["Harvest", "Held", "Rows", "Source", "activations", "record_rows"]

HELD = 0.05  # share of the windows that nothing is learned from


@dataclass(frozen=True)
class Rows:
    """What a dictionary reads, and what it should give for it; of an autoencoder the same."""

    x: Float[Tensor, "row width"]
    y: Float[Tensor, "row width_out"]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Tensor | slice) -> "Rows":
        x = self.x[rows]
        return Rows(x, x if self.y is self.x else self.y[rows])


class Source(Protocol):
    """Rows in chunks. What is given for an epoch and a chunk is always the same."""

    @property
    def chunks(self) -> int:
        """Of an epoch."""
        ...

    @property
    def transcodes(self) -> bool:
        """Whether what is read and what is given for it are two places."""
        ...

    def identity(self) -> dict[str, Any]:
        """What the rows depend on, in plain words."""
        ...

    def chunk(self, epoch: int, number: int) -> Rows:
        """Some of the rows to learn from, shuffled."""
        ...

    def held(self) -> Rows:
        """Rows that no chunk has."""
        ...


class Harvest:
    """The activations of a subject at a site, or at one site and another.

    Args:
        skip: tokens at the start of each window that are left out; the first one's activations are unlike all others.
        rows: tokens of a chunk, about.
        batch: windows in a pass.

    Raises UsageError for a site that dictionaries have no name for, DataError for fewer than two windows with tokens to
    learn from.
    """

    def __init__(
        self,
        subject: Subject,
        documents: Documents,
        reads: Site,
        writes: Site | None = None,
        *,
        skip: int = 1,
        rows: int = 1 << 16,
        batch: int = 32,
        seed: int = 0,
    ) -> None:
        for site in {reads, writes or reads}:
            hook_name(site, len(subject))
            subject.layout.tap(site)
        long = documents[(documents.ids[:, skip:] >= 0).any(1)]
        if len(long) < 2:
            raise DataError(f"{len(long)} windows are longer than the {skip} tokens left out", "give more text")
        self.subject, self.reads, self.writes = subject, reads, writes or reads
        self.skip, self.batch, self.seed, self.rows = skip, batch, seed, rows
        order = torch.randperm(len(long), generator=torch.Generator().manual_seed(seed))
        aside = max(1, round(HELD * len(long)))
        self._aside, self._documents = long[order[:aside]], long[order[aside:]]
        per_window = (self._documents.ids[:, skip:] >= 0).sum() / len(self._documents)
        self._all: Rows | None = None  # where one chunk holds all
        self.windows = max(1, min(len(self._documents), int(rows / per_window)))

    @property
    def chunks(self) -> int:
        return -(-len(self._documents) // self.windows)

    @property
    def transcodes(self) -> bool:
        return self.reads != self.writes

    def identity(self) -> dict[str, Any]:
        return {
            "model": self.subject.name,
            "revision": self.subject.revision,
            "reads": str(self.reads),
            "writes": str(self.writes),
            "windows": len(self._documents),
            "tokens": int((self._documents.ids >= 0).sum()),
            "text": int(self._documents.ids.long().sum()),
            "skip": self.skip,
            "rows": self.rows,
            "order": self.seed,
        }

    def chunk(self, epoch: int, number: int) -> Rows:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self._documents), generator=generator)
        if self.chunks > 1:
            rows = self.recorded(self._documents[order[number * self.windows : (number + 1) * self.windows]])
        else:
            rows = self._all = self._all or self.recorded(self._documents)
        generator.manual_seed((self.seed * 1_000_003 + epoch) * 1_000_003 + number)
        return rows[torch.randperm(len(rows), generator=generator).to(rows.x.device)]

    def held(self) -> Rows:
        return self.recorded(self._aside[: self.windows])

    def recorded(self, documents: Documents) -> Rows:
        """The rows of some windows, in their order."""
        sites = [self.reads, self.writes] if self.transcodes else [self.reads]
        found = record_rows(self.subject, documents, sites, skip=self.skip, batch=self.batch)
        return Rows(found[self.reads], found[self.writes])


class Held:
    """Activations that lie in memory already, as a source of one chunk; a twentieth of the rows is held out."""

    def __init__(self, x: Float[Tensor, "row width"], y: Float[Tensor, "row width_out"] | None = None) -> None:
        self.transcodes, self.chunks = y is not None, 1
        self._rows, self._aside = Rows(x, x if y is None else y), max(1, round(HELD * len(x)))

    def identity(self) -> dict[str, Any]:
        return {"rows": len(self._rows), "sum": float(self._rows.x.double().sum())}

    def chunk(self, epoch: int, number: int) -> Rows:
        generator = torch.Generator().manual_seed(epoch)
        order = torch.randperm(len(self._rows) - self._aside, generator=generator)
        return self._rows[order.to(self._rows.x.device)]

    def held(self) -> Rows:
        return self._rows[slice(-self._aside, None)]


@torch.no_grad()
def activations(
    subject: Subject, prompts: Prompts, sites: Sequence[Site]
) -> dict[Site, Float[Tensor, "prompt pos unit channel"]]:
    """What passes these sites, in a pass that ends as soon as the last of them is reached."""
    seen: dict[Site, Tensor] = {}

    def keep(site: Site) -> Edit:
        def edit(act: Tensor) -> Tensor:
            seen[site] = act.detach()
            if len(seen) == len(set(sites)):
                raise _Reached
            return act

        return edit

    with suppress(_Reached), subject.editing({site: keep(site) for site in sites}):
        subject.logits(prompts)
    return seen


class _Reached(Exception):
    """All sites are recorded: the rest of the pass is not needed."""


def record_rows(
    subject: Subject, documents: Documents, sites: Sequence[Site], *, skip: int = 1, batch: int = 32
) -> dict[Site, Float[Tensor, "row width"]]:
    """One row a token, in float32, window after window. Raises NumericalError, naming the site, for a NaN."""
    prompts = documents.prompts()
    kept = prompts.mask.clone()
    kept[:, :skip] = False
    found: dict[Site, dict[int, Tensor]] = {site: {} for site in sites}

    def record(rows: Tensor) -> None:
        passed = prompts[rows]
        for site, act in activations(subject, passed, sites).items():
            flat = act.flatten(2).float()
            if not flat[passed.mask.to(flat.device)].isfinite().all():
                raise NumericalError(f"the activations at {site} are not finite", "use float32 weights")
            for row, values in zip(rows.tolist(), flat, strict=True):
                found[site][row] = values[kept[row, : len(values)].to(values.device)]

    batched(record, prompts.lengths, batch)
    return {site: torch.cat([parts[row] for row in range(len(prompts))]) for site, parts in found.items()}
