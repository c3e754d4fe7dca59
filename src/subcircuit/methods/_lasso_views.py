"""What a regression on a model looks at: the activations of every writer and reader, in one table row by row.

Columns of the table are channels, unit by unit and site by site, units of one width side by side: whatever is done to
all units of a width, such as adding up their outer products, is then one operation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.metrics import logit_difference
from subcircuit.parallel.group import count
from subcircuit.parallel.rows import shared
from subcircuit.progress import Progress
from subcircuit.sites import Site
from subcircuit.subject import Prompts, Subject
from subcircuit.tasks._base import Pairs

__all__ = ["Recorder", "Rows", "Shelf", "Sink", "Views", "shelves"]

Rows = Literal["differences", "tokens", "prompts"]
Sink = Literal["answers", "logit-difference"]
PARTS = ("ids", "mask", "at")


@dataclass(frozen=True)
class Shelf:
    """The units of one width. Units are numbered through all shelves."""

    spans: Mapping[Site, slice]  # which of the shelf's units are a site's
    units: int
    channels: int
    column: int  # where the first unit's columns start
    first: int  # its number

    def of(self, table: Float[Tensor, "row column"]) -> Float[Tensor, "row unit channel"]:
        """These units' part of a table."""
        part = table[:, self.column : self.column + self.units * self.channels]
        return part.view(len(table), self.units, self.channels)


def shelves(subject: Subject, sites: Sequence[Site]) -> list[Shelf]:
    """The sites by the width of their units, narrow ones first."""

    counts = {kind: subject.units(kind) for kind in {site.kind for site in sites}}
    channels = {kind: subject.width(kind) // units for kind, units in counts.items()}
    found: list[Shelf] = []
    column = first = 0
    for width in sorted(set(channels.values())):
        spans, units = {}, 0
        for site in sites:
            if channels[site.kind] == width:
                spans[site] = slice(units, units := units + counts[site.kind])
        found.append(Shelf(spans, units, width, column, first))
        column, first = column + units * width, first + units
    return found


@dataclass(frozen=True)
class Views:
    """Rows of one batch of pairs."""

    acts: Float[Tensor, "row column"]  # at every token that counts
    pair: Int[Tensor, " row"]  # which pair a row is of
    judged: Float[Tensor, "judged column"]  # the same where the output is judged
    sink: Float[Tensor, "judged answer"]
    judged_pair: Int[Tensor, " judged"]


class Recorder:
    """Sweeps over the prompts, one forward pass for the clean and the corrupted ones of a batch.

    What the passes record is kept for the next sweep where it fits, else they are made again. Rows: "differences"
    between the two at the same token, where there is one; the "tokens" of both; or the mean over each prompt's tokens
    ("prompts").
    """

    def __init__(
        self,
        subject: Subject,
        pairs: Pairs,
        sites: Sequence[Site],
        *,
        rows: Rows,
        sink: Sink,
        batch_size: int,
        cache_bytes: int,
    ) -> None:
        self.subject, self.pairs, self.rows, self.sink, self.batch_size = subject, pairs, rows, sink, batch_size
        self.shelves = shelves(subject, sites)
        self.sites = [site for shelf in self.shelves for site in shelf.spans]
        both = torch.cat([pairs.right.flatten(), pairs.wrong.flatten()])
        self.answers = both[both >= 0].unique()  # every token that is an answer to some prompt
        width = sum(shelf.units * shelf.channels for shelf in self.shelves)
        self.fits = 2 * 4 * width * pairs.clean.ids.numel() <= cache_bytes
        self.kept: list[tuple[Views, int]] = []

    @property
    def outputs(self) -> int:
        """How many numbers the output has."""
        return 1 if self.sink == "logit-difference" else len(self.answers)

    def sweep(self, add: Callable[[Views], None], tell: Progress, phase: str) -> None:
        """Every batch of this process's share of the pairs, as it was recorded before where it was kept."""
        done = 0

        def told(views: Views, pairs: int) -> None:
            nonlocal done
            add(views)
            done = min(done + pairs * count(), len(self.pairs))
            tell(phase, done, len(self.pairs))

        def run(chosen: Tensor) -> None:
            views = self._views(chosen)
            told(views, len(chosen))
            if self.fits:
                fresh.append((views, len(chosen)))

        fresh: list[tuple[Views, int]] = []
        if self.kept:
            for views, pairs in self.kept:
                told(views, pairs)
            return
        shared(run, self.pairs.clean.lengths, self.batch_size)
        self.kept = fresh

    def _views(self, chosen: Tensor) -> Views:
        batch = self.pairs[chosen]
        both = Prompts(*(torch.cat([getattr(side, part) for side in (batch.clean, batch.corrupt)]) for part in PARTS))
        logits, seen = self.subject.record(both, self.sites)
        acts = torch.cat([seen[site].flatten(2).cpu() for site in self.sites], 2).float()
        top, real, at = self._top(logits, batch).cpu(), both.mask.cpu(), both.at.cpu()
        if self.rows == "differences":
            acts, top = (side[: len(batch)] - side[len(batch) :] for side in (acts, top))
            real, at = real[: len(batch)] & acts.any(2), at[: len(batch)]
        owner = chosen.repeat(len(top) // len(batch))
        if self.rows == "prompts":
            means = torch.einsum("btc,bt->bc", acts, real / real.sum(1, keepdim=True))
            return Views(means, owner, means, top, owner)
        return Views(acts[real], owner[:, None].expand_as(real)[real], acts[torch.arange(len(at)), at], top, owner)

    def _top(self, logits: Float[Tensor, "prompt vocab"], batch: Pairs) -> Float[Tensor, "prompt answer"]:
        """The output, first of the clean prompts and then of the corrupted ones."""
        if self.sink == "logit-difference":
            return logit_difference(logits, batch.right.repeat(2, 1), batch.wrong.repeat(2, 1))[:, None]
        chosen = logits[:, self.answers.to(logits.device)]
        return chosen - chosen.mean(1, keepdim=True)  # what all answers share decides nothing
