"""The few columns that each part of a model has in a regression, and which parts can tell each other anything.

A head stands for what it writes: `z W_o`, in coordinates of the head's own width that keep all lengths and angles
(`z F` with `F F' = W_o W_o'`), so a head that writes nothing is a dead column. A writer's columns are the principal
components of its rows, whitened, so that no basis and no scale is preferred; a reader's are its own, scaled to a power
of 1 together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from subcircuit.methods._lasso_views import Shelf
from subcircuit.regression.normal import FAINT
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.wiring import PROJECTIONS

__all__ = ["Columns", "Moment", "Outer", "Parts", "Scale", "components", "factors", "read"]

Scale = Literal["column", "whole", "none"]
Moment = Float[Tensor, "unit channel channel"]  # mean outer products of a unit's rows
Factors = Float[Tensor, "unit column"]
DEAD = 1e-12  # of the largest unit's variance: what a unit has that does not vary


class Outer:
    """Outer products of each unit's rows, added up batch by batch."""

    def __init__(self, units: int, channels: int) -> None:
        self.products = torch.zeros(units, channels, channels, dtype=torch.float64)
        self.sums = torch.zeros(units, channels, dtype=torch.float64)
        self.rows = 0

    def add(self, values: Float[Tensor, "row unit channel"]) -> None:
        by_unit = values.transpose(0, 1)
        self.products.baddbmm_(by_unit.mT, by_unit)
        self.sums += by_unit.sum(1)
        self.rows += len(values)

    def moment(self, *, centre: bool) -> Moment:
        """Their mean, and less what the mean row gives."""
        mean, rows = self.sums / max(1, self.rows), max(1, self.rows)
        return self.products / rows - mean[:, :, None] * mean[:, None] if centre else self.products / rows


@dataclass(frozen=True)
class Columns:
    """A map from a table's channels to some units' own columns, side by side in the order of the units."""

    live: Int[Tensor, " live"]  # which of the units vary; others have no columns
    size: int  # columns of a unit
    pieces: Sequence[tuple[Shelf, Int[Tensor, " part"], Float[Tensor, "part channel column"]]]
    order: Int[Tensor, " live"]

    def of(self, table: Float[Tensor, "row channel"]) -> Float[Tensor, "row column"]:
        parts = [torch.bmm(shelf.of(table).transpose(0, 1)[units], each) for shelf, units, each in self.pieces]
        empty = table.new_empty(0, len(table), self.size)
        return torch.cat([empty, *parts])[self.order].transpose(0, 1).flatten(1)


class Parts:
    """The principal components of every unit, and where in the residual stream it writes.

    Args:
        channels: how many components, at most; 0: the channels themselves.
    """

    def __init__(self, subject: Subject, shelves: Sequence[Shelf], moments: Sequence[Moment], channels: int) -> None:
        self.shelves = shelves
        self.written = torch.zeros(sum(shelf.units for shelf in shelves), subject.units(Kind.MLP_OUT), dtype=torch.bool)
        values, self.directions = [], []
        for shelf, moment in zip(shelves, moments, strict=True):
            through = self._through(subject, shelf, moment)
            found, directions = components(moment if through is None else through.mT @ moment @ through, channels)
            values.append(found)
            self.directions.append(directions if through is None else through @ directions)
        size = max(each.shape[1] for each in values)
        self.values = torch.cat([_padded(each, size) for each in values])
        self.directions = [_padded(each, size) for each in self.directions]

    def numbers(self, sites: Sequence[Site]) -> Int[Tensor, " unit"]:
        """The units of these sites, one site after another."""
        spans = {site: (shelf.first, span) for shelf in self.shelves for site, span in shelf.spans.items()}
        places = [spans[site] for site in sites]
        return torch.cat([torch.arange(first + span.start, first + span.stop) for first, span in places])

    def columns(self, units: Int[Tensor, " unit"], scale: Scale) -> Columns:
        """Those of the units that vary."""
        factor = factors(self.values[units], scale)
        live = factor.any(1).nonzero()[:, 0]
        used = factor.any(0).nonzero()[:, 0]
        size = int(used[-1]) + 1 if len(used) else 1
        pieces, order = [], [live[:0]]
        for shelf, directions in zip(self.shelves, self.directions, strict=True):
            own = units[live] - shelf.first
            inside = ((own >= 0) & (own < shelf.units)).nonzero()[:, 0]
            if len(inside):
                basis = directions[own[inside], :, :size] * factor[live[inside], None, :size]
                pieces.append((shelf, own[inside], basis))
                order.append(inside)
        return Columns(live, size, pieces, torch.cat(order).argsort())

    def _through(self, subject: Subject, shelf: Shelf, moment: Moment) -> Float[Tensor, "unit channel channel"] | None:
        """What rows are multiplied by first: of heads `F`, of all else, which writes as it is, 1. None: nothing."""
        written = self.written[shelf.first :]
        heads, squares = [], []
        for site, span in shelf.spans.items():
            if site.kind is Kind.HEAD:
                weight = subject.layout.weight(site).detach().double().cpu()
                written[span] = _varied(((moment[span] @ weight) * weight).sum(1))
                heads.append(torch.arange(span.start, span.stop))
                squares.append(weight @ weight.mT)
            elif site.kind not in PROJECTIONS:
                written[span] = _varied(moment[span].diagonal(dim1=1, dim2=2))
        if not heads:
            return None
        values, vectors = torch.linalg.eigh(torch.cat(squares))
        found = torch.eye(shelf.channels, dtype=torch.float64).repeat(shelf.units, 1, 1)
        found[torch.cat(heads)] = vectors * values.clamp(min=0).sqrt()[:, None]
        return found


def components(moment: Moment, channels: int) -> tuple[Factors, Float[Tensor, "unit channel column"]]:
    """Variances and directions of each unit's first principal components; for 0, of its channels."""
    if not channels:
        values = moment.diagonal(dim1=1, dim2=2)
        return values, torch.eye(values.shape[1], dtype=values.dtype).expand_as(moment)
    values, vectors = torch.linalg.eigh(moment)
    return values.flip(-1)[:, :channels].clamp(min=0), vectors.flip(-1)[:, :, :channels]


def factors(values: Factors, scale: Scale) -> Factors:
    """What makes columns of components: a variance of 1 for each "column", for the "whole" unit, or "none" given; 0
    for what does not vary."""
    power = values.sum(1, keepdim=True)
    alive = (values > FAINT * values.amax(1, keepdim=True)) & (power > DEAD * power.max())
    scaled = {"column": values, "whole": power.expand_as(values), "none": torch.ones_like(values)}[scale]
    return scaled.clamp(min=1e-300).rsqrt().where(alive, torch.zeros_like(values))


def read(subject: Subject, site: Site) -> Bool[Tensor, "unit hidden"]:
    """The coordinates of the residual stream that each unit's projections take in; of a head, whose are three, all."""
    if site.kind in PROJECTIONS:
        return (subject.layout.weight(site).detach() != 0).any(1).cpu()
    hidden = subject.units(Kind.MLP_OUT)
    inward = _inward(subject, site.layer, hidden) if site.kind is Kind.MLP else []
    if not inward:
        return torch.ones(subject.units(site.kind), hidden, dtype=torch.bool)
    return torch.stack(inward).any(0)[None]


def _inward(subject: Subject, layer: int, hidden: int) -> list[Bool[Tensor, " hidden"]]:
    """The same of each projection that stands beside the MLP's last one."""
    down = subject.family.taps[Kind.NEURON].module
    found = []
    for name, module in subject.module(layer, down.rpartition(".")[0]).named_children():
        weight = getattr(module, "weight", None)
        if name == down.rpartition(".")[2] or not isinstance(weight, Tensor) or weight.dim() != 2:
            continue
        inputs = weight if isinstance(module, nn.Linear) else weight.T  # GPT-2's Conv1D is (in, out)
        if inputs.shape[1] == hidden:
            found.append((inputs.detach() != 0).any(0).cpu())
    return found


def _varied(power: Float[Tensor, "unit hidden"]) -> Bool[Tensor, "unit hidden"]:
    found: Tensor = power > DEAD * power.amax(1, keepdim=True)
    return found


def _padded(values: Tensor, size: int) -> Tensor:
    """With zeros up to so many columns."""
    return torch.nn.functional.pad(values, (0, size - values.shape[-1]))
