"""What the lasso over a model's parts is run on: Gram matrices of all writers, streamed from forward passes.

Two sweeps over the prompts: the first finds each part's own columns, the second adds up products of columns. What the
passes record is kept between the sweeps where it fits, else the passes are made again.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.errors import NumericalError, ResourceError
from subcircuit.methods._edge_study import EdgeStudy
from subcircuit.methods._lasso_views import Recorder, Rows, Scale, Sink, Views, basis, read, root, written
from subcircuit.methods._study import Settings
from subcircuit.progress import Progress
from subcircuit.regression.normal import Grams
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs, Task
from subcircuit.wiring import PROJECTIONS

__all__ = ["LassoSettings", "LassoStudy", "Sums", "Target"]

log = logging.getLogger(__name__)

Moments = dict[Site | None, Float[Tensor, "unit channel channel"]]
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
    open: Bool[Tensor, "target writer"]  # what each target may be regressed on; the output last
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
        sites = list(dict.fromkeys([*self.sources, *(target.site for target in self.targets)]))
        return Recorder(
            self.subject,
            self.pairs,
            sites,
            self.sources,
            rows=cast(Rows, own.rows),
            sink=cast(Sink, own.sink),
            batch_size=own.batch,
            cache_bytes=int(own.cache_gb * 2**30),
        )

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

    def open(self, moments: Moments) -> Bool[Tensor, "target writer"]:
        """Which writers each target may be regressed on; the output on all.

        Those before it, as in the paper; of these, those that write to some coordinate of the stream that its weights
        take in: no data could tell a writer from another that says the same elsewhere, as in compiled programs.
        """
        sources = torch.cat([written(self.subject, site, moments[site]) for site in self.sources])
        takes = {target.site: read(self.subject, target.site) for target in self.targets}
        found = torch.zeros(len(self.targets) + 1, len(self.wiring.writers), dtype=torch.bool)
        for row, target in enumerate(self.targets):
            earlier = slice(0, target.before)
            found[row, earlier] = (sources[earlier] & takes[target.site][target.unit]).any(1)
        found[-1] = True
        return found

    def sums(self, tell: Progress) -> Sums:
        """All products. Raises NumericalError for an activation that is not finite."""
        moments, rows = self._moments(tell)
        sources, size = self._bases(moments, self.sources, whole=False)
        ends = list(dict.fromkeys(target.site for target in self.targets))
        inner, width = self._bases(moments, ends, whole=True)
        output = self._sink_basis(moments)
        self._require_room(len(self.wiring.writers) * size, len(self.targets) * width)
        writers, out = len(self.wiring.writers) * size, output.shape[1]
        grams = partial(Grams, writers, folds=self.own.folds, centre=self.own.rows != "differences")
        sums = Sums(grams(len(self.targets) * width), grams(out), self.open(moments), size, width, out)

        def add(views: Views) -> None:
            fold, fold_out = views.pair % self.own.folds, views.judged_pair % self.own.folds
            columns = _columns(views.acts, dict(zip(self.sources, sources, strict=True)))
            sums.inner.add(columns, _columns(views.acts, dict(zip(ends, inner, strict=True))), fold)
            judged = _columns(views.judged, dict(zip(self.sources, sources, strict=True)))
            sums.output.add(judged, views.sink.double().cpu() @ output, fold_out)

        self.recorder.sweep(add, tell, "gram")
        self._warn_of_few(rows, sums.output.rows, size)
        return sums

    def _readers(self, site: Site, unit: int) -> tuple[int, ...]:
        if site.kind is not Kind.HEAD:
            return (self.wiring.rows(site).start + unit,)
        group = unit * self.wiring.groups // self.wiring.heads
        starts = [self.wiring.rows(Site(site.layer, kind)).start for kind in PROJECTIONS]
        return (starts[0] + unit, starts[1] + group, starts[2] + group)

    def _moments(self, tell: Progress) -> tuple[Moments, int]:
        """Mean outer products of every unit's rows, and of the output's under None; and how many rows there are."""
        total: Moments = {}
        mean: dict[Site | None, Tensor] = {}
        count = {"acts": 0, "sink": 0}

        def add(views: Views) -> None:
            count["acts"] += len(views.pair)
            count["sink"] += len(views.sink)
            for site, act in [*views.acts.items(), (None, views.sink[:, None])]:
                if not act.isfinite().all():
                    what = f"an activation at {site or 'the logits'} is not finite"
                    raise NumericalError(what, "use float32 weights, or check the prompts")
                act = act.cpu().double().transpose(0, 1)
                total[site] = total.get(site, 0) + act.mT @ act
                mean[site] = mean.get(site, 0) + act.sum(1)

        self.recorder.sweep(add, tell, "activations")
        for site in total:
            rows = max(1, count["sink" if site is None else "acts"])
            total[site] = total[site] / rows
            if self.own.rows != "differences":
                centre = mean[site] / rows
                total[site] -= centre[:, :, None] * centre[:, None]
        return total, count["acts"]

    def _bases(
        self, moments: Moments, sites: list[Site], *, whole: bool
    ) -> tuple[list[Float[Tensor, "unit channel column"]], int]:
        """The maps to columns at each site, padded to one number of columns."""
        through = {site: root(self.subject, site) for site in sites}
        power = {site: _power(moments[site], through[site]) for site in sites}
        largest = max(float(each.max()) for each in power.values())
        scale: Scale = "whole" if whole else "column" if self.own.standardise else "none"
        found = [
            basis(moments[site], self.own.channels, scale=scale, largest=largest, through=through[site])
            for site in sites
        ]
        dead = sum(int((~each.any(1).any(1)).sum()) for each in found)
        log.info("%d of %d %s do not vary", dead, sum(map(len, found)), "targets" if whole else "writers")
        size = max(each.shape[-1] for each in found)
        return [torch.nn.functional.pad(each, (0, size - each.shape[-1])) for each in found], size

    def _sink_basis(self, moments: Moments) -> Float[Tensor, "answer column"]:
        moment = moments[None]
        return basis(moment, self.own.channels, scale="whole", largest=float(_power(moment, None).max()))[0]

    def _warn_of_few(self, rows: int, judged: int, size: int) -> None:
        """A block of `size` columns is told from `writers` others by about 2 (size + log writers) rows."""
        needed = math.ceil(2 * (size + math.log(len(self.wiring.writers))))
        for what, there in (("rows", rows), ("judged rows", judged)):
            if there < needed:
                few = "%d %s are few for %d columns a part: %d are needed, so give more --pairs"
                log.warning(few, there, what, size, needed)

    def _require_room(self, sources: int, targets: int) -> None:
        needed = 8 * self.own.folds * sources * (2 * sources + targets)
        if needed > ROOM:
            raise ResourceError(
                f"Gram matrices of {sources:,} columns take {needed / 2**30:.0f} GB; the limit is {ROOM / 2**30:.0f}",
                "take fewer --channels for each part (8), or fewer --folds",
            )


def _power(moment: Tensor, through: Tensor | None) -> Tensor:
    seen = moment if through is None else through @ moment @ through
    power: Tensor = seen.diagonal(dim1=1, dim2=2).sum(1)
    return power


def _columns(acts: Mapping[Site, Tensor], maps: Mapping[Site, Tensor]) -> Float[Tensor, "row column"]:
    """All units of all sites in their own columns, side by side."""
    parts = [torch.einsum("ruc,uck->ruk", acts[site].cpu().double(), each).flatten(1) for site, each in maps.items()]
    return torch.cat(parts, 1)
