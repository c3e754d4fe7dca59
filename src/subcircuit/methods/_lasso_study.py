"""What the lasso over a model's parts is run on: Gram matrices of all writers, streamed from forward passes.

Two sweeps over the prompts: the first finds each part's own columns, the second adds up products of columns. What the
passes record is kept between the sweeps where it fits, else the passes are made again.
"""

import logging
import math
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from subcircuit.errors import NumericalError, ResourceError
from subcircuit.methods._edge_study import EdgeStudy
from subcircuit.methods._lasso_columns import Columns, Moment, Outer, Parts, components, factors, read
from subcircuit.methods._lasso_views import Recorder, Rows, Sink, Views
from subcircuit.methods._study import Settings
from subcircuit.parallel.group import summed
from subcircuit.progress import Progress
from subcircuit.regression.normal import Grams
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs, Task
from subcircuit.wiring import PROJECTIONS

__all__ = ["LassoSettings", "LassoStudy", "Sums", "Target"]

log = logging.getLogger(__name__)

ROOM = 8 << 30  # bytes of Gram matrices, at most


class LassoSettings(Settings, Protocol):
    """The fields that say what is regressed on what."""

    @property
    def channels(self) -> int: ...
    @property
    def rows(self) -> str: ...
    @property
    def sink(self) -> str: ...
    @property
    def targets(self) -> str: ...
    @property
    def standardise(self) -> bool: ...
    @property
    def folds(self) -> int: ...
    @property
    def select(self) -> str: ...
    @property
    def alpha(self) -> float | None: ...


@dataclass(frozen=True)
class Target:
    """A unit that is regressed on what comes before it, and the readers its edges are of."""

    site: Site
    unit: int
    readers: tuple[int, ...]
    before: int  # writers before it


@dataclass(frozen=True)
class Sums:
    """Products of columns: of the targets inside the model, and of the output, each with its own rows."""

    inner: Grams
    output: Grams
    writers: Int[Tensor, " live"]  # those that vary, of all; only these have columns
    targets: Int[Tensor, " live"]
    open: Bool[Tensor, "live writer"]  # what each such target may be regressed on; the output last
    size: int  # columns of a writer
    width: int  # columns of a target
    width_out: int


class LassoStudy(EdgeStudy):
    """Raises UnsupportedModel for an encoder, ResourceError when the Gram matrices would be too large."""

    def __init__(
        self,
        method: str,
        settings: LassoSettings,
        subject: Subject,
        task: Task,
        pairs: Pairs | None = None,
        folder: Path | None = None,
    ) -> None:
        super().__init__(method, settings, subject, task, pairs, folder)
        self.own = settings

    @cached_property
    def sources(self) -> list[Site]:
        """Sites of writers, in the order of the wiring's columns."""
        return [Site(0, Kind.RESID), *self.subject.sites(Kind.HEAD, Kind.MLP)]

    @cached_property
    def recorder(self) -> Recorder:
        """The forward passes."""
        own = self.own
        sites = list(dict.fromkeys([*self.sources, *self.ends]))
        return Recorder(
            self.subject,
            self.pairs,
            sites,
            rows=cast(Rows, own.rows),
            sink=cast(Sink, own.sink),
            batch_size=own.batch,
            cache_bytes=int(own.cache_gb * 2**30),
        )

    @property
    def folds(self) -> int:
        """Into how many the rows are kept apart; 1 where nothing asks for them."""
        return self.own.folds if self.own.select in ("cv", "stability") and self.own.alpha is None else 1

    @cached_property
    def ends(self) -> list[Site]:
        """Sites of targets, in their order."""
        return list(dict.fromkeys(target.site for target in self.targets))

    @cached_property
    def targets(self) -> list[Target]:
        """All but the output, in the order of computation.

        With targets "inputs": queries, keys, values and what MLPs write. With "outputs": what heads and MLPs write; a
        head's edges are then those of its query, its key and its value.
        """
        found, wiring = [], self.wiring
        for layer in range(wiring.layers):
            kinds = PROJECTIONS if self.own.targets == "inputs" else (Kind.HEAD,)
            for site in (*(Site(layer, kind) for kind in kinds), Site(layer, Kind.MLP)):
                before = wiring.before(Site(layer, Kind.Q) if site.kind is Kind.HEAD else site)
                for unit in range(self.subject.units(site.kind)):
                    found.append(Target(site, unit, self._readers(site, unit), before))
        return found

    def open(self, parts: Parts, writers: Int[Tensor, " writer"]) -> Bool[Tensor, "target writer"]:
        """Which writers each target may be regressed on; the output on all.

        Those before it, as in the paper; of these, those that write to some coordinate of the stream that its weights
        take in: no data could tell a writer from another that says the same elsewhere, as in compiled programs.
        """
        written = parts.written[writers]
        before = torch.tensor([target.before for target in self.targets])
        found = torch.arange(len(written)) < before[:, None]
        if not written[written.any(1)].all():  # else whatever takes in anything takes in all writers
            takes = torch.cat([read(self.subject, site) for site in self.ends])
            found &= takes.float() @ written.T.float() > 0
        return torch.cat([found, torch.ones(1, len(written), dtype=torch.bool)])

    def sums(self, tell: Progress) -> Sums:
        """All products. Raises NumericalError for an activation that is not finite."""
        moments, sink, rows = self._moments(tell)
        parts = Parts(self.subject, self.recorder.shelves, moments, self.own.channels)
        writers, readers = parts.numbers(self.sources), parts.numbers(self.ends)
        sources = parts.columns(writers, "column" if self.own.standardise else "none")
        ends = parts.columns(readers, "whole")
        for what, live, units in (("writers", sources.live, writers), ("targets", ends.live, readers)):
            log.info("%d of %d %s do not vary", len(units) - len(live), len(units), what)
        values, directions = components(sink, self.own.channels)
        output = directions[0] * factors(values, "whole")[0]
        inner, outer = self._grams(sources, ends, output, tell)
        self._warn_of_few(rows, outer.rows, sources.size)
        shown = self.open(parts, writers)[torch.cat([ends.live, torch.tensor([len(readers)])])][:, sources.live]
        return Sums(inner, outer, sources.live, ends.live, shown, sources.size, ends.size, output.shape[1])

    def _grams(
        self, sources: Columns, ends: Columns, output: Float[Tensor, "answer column"], tell: Progress
    ) -> tuple[Grams, Grams]:
        """Products of the writers' columns with the targets', and with the output's where it is judged."""
        own, targets = self.own, len(ends.live) * ends.size
        writers = len(sources.live) * sources.size
        self._require_room(writers, targets)
        grams = partial(Grams, writers, folds=self.folds, centre=own.rows != "differences")
        inner, outer = grams(targets), grams(output.shape[1])

        def add(views: Views) -> None:
            folds = (0, 0) if self.folds == 1 else (views.pair % self.folds, views.judged_pair % self.folds)
            acts = torch.cat([views.acts, views.judged]).double()
            columns, last = sources.of(acts), len(views.acts)
            inner.add(columns[:last], ends.of(acts[:last]), folds[0])
            outer.add(columns[last:], views.sink.double() @ output, folds[1])

        self.recorder.sweep(add, tell, "gram")
        for each in (inner, outer):
            _of_all(each)
        return inner, outer.whitened(sources.size) if own.standardise and own.channels else outer

    def _readers(self, site: Site, unit: int) -> tuple[int, ...]:
        if site.kind is not Kind.HEAD:
            return (self.wiring.rows(site).start + unit,)
        group = unit * self.wiring.groups // self.wiring.heads
        starts = [self.wiring.rows(Site(site.layer, kind)).start for kind in PROJECTIONS]
        return (starts[0] + unit, starts[1] + group, starts[2] + group)

    def _moments(self, tell: Progress) -> tuple[list[Moment], Moment, int]:
        """Of every unit's rows, shelf by shelf, and of the output's; and how many rows there are."""
        shelves = self.recorder.shelves
        inner = [Outer(shelf.units, shelf.channels) for shelf in shelves]
        output = Outer(1, self.recorder.outputs)

        def add(views: Views) -> None:
            acts = views.acts.double()
            for outer, shelf in zip(inner, shelves, strict=True):
                outer.add(shelf.of(acts))
                for site, span in shelf.spans.items() if not outer.sums.isfinite().all() else ():
                    _require_finite(outer.sums[span], str(site))
            output.add(views.sink.double()[:, None])
            _require_finite(output.sums, "the logits")

        self.recorder.sweep(add, tell, "activations")
        for each in (*inner, output):
            rows = torch.tensor(each.rows)
            summed(each.products, each.sums, rows)
            each.rows = int(rows)
        centre = self.own.rows != "differences"
        return [outer.moment(centre=centre) for outer in inner], output.moment(centre=centre), inner[0].rows

    def _warn_of_few(self, rows: int, judged: int, size: int) -> None:
        """A block of `size` columns is told from `writers` others by about 2 (size + log writers) rows."""
        needed = math.ceil(2 * (size + math.log(len(self.wiring.writers))))
        for what, there in (("rows", rows), ("judged rows", judged)):
            if there < needed:
                few = "%d %s are few for %d columns a part: %d are needed, so give more --pairs"
                log.warning(few, there, what, size, needed)

    def _require_room(self, sources: int, targets: int) -> None:
        needed = 8 * self.folds * sources * (2 * sources + targets)
        if needed > ROOM:
            raise ResourceError(
                f"Gram matrices of {sources:,} columns take {needed / 2**30:.0f} GB; the limit is {ROOM / 2**30:.0f}",
                "take fewer --channels for each part (8), or fewer --folds",
            )


def _of_all(grams: Grams) -> None:
    """The rows of every process, where several share them."""
    counts = torch.tensor(grams.counts)
    summed(grams.products, grams.squares, grams.sums, counts)
    grams.counts = counts.tolist()


def _require_finite(sums: Tensor, where: str) -> None:
    if not sums.isfinite().all():
        raise NumericalError(f"an activation at {where} is not finite", "use float32 weights, or check the prompts")
