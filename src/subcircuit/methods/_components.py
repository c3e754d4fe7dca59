"""What causal tracing replaces as one: a node, or several side by side where a granularity has thousands.

A component costs 1, or in proportion to its size, the smallest 1; what a budget allows is the sum of costs. Where
positions have parts, a node is another component in each of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from subcircuit.costs import Prices
from subcircuit.errors import UnknownName, UsageError
from subcircuit.sites import PARENT, Kind, Site
from subcircuit.subject import Subject

__all__ = ["Components", "Cost", "check_apart", "fitting"]

Cost = Literal["components", "units", "parameters"]
ROUNDING = 1e-4  # of a budget, which sums of costs may be off by
FINE = (Kind.CHANNEL, Kind.NEURON, Kind.MLP_OUT)  # what `group` puts together
READS = (Kind.Q, Kind.K, Kind.V, Kind.KV)  # a head that is replaced reads nothing
# besides a kind and what it lies in
OVERLAPPING = [
    {Kind.NEURON, Kind.MLP_OUT},
    *({read, whole} for read in READS for whole in (Kind.HEAD, Kind.CHANNEL, Kind.ATTN, Kind.BLOCK)),
    *({Kind.KV, part} for part in (Kind.K, Kind.V)),
]


@dataclass(frozen=True)
class Components:
    """Components by number: part by part, in a part layer by layer, in a layer kind by kind."""

    places: Mapping[Site, Int[Tensor, " unit"]]  # the component of a part that each unit belongs to
    costs: Float[Tensor, " component"]
    parts: tuple[str, ...] = ()  # of the positions; none where a component is replaced at all of them

    @classmethod
    def of(
        cls,
        subject: Subject,
        kinds: Sequence[Kind],
        group: int = 1,
        *,
        cost: Cost = "components",
        parts: tuple[str, ...] = (),
    ) -> "Components":
        """The components of a model: `group` units of a fine kind are one. Raises UnknownName for another cost."""
        if cost not in get_args(Cost):
            raise UnknownName("cost", cost, get_args(Cost))
        price = _prices(subject, kinds, cost)
        places: dict[Site, Tensor] = {}
        costs: list[float] = []
        for site in subject.sites(*kinds):
            size = group if site.kind in FINE else 1
            places[site] = len(costs) + torch.arange(subject.units(site.kind)) // size
            own = (places[site] - len(costs)).bincount()
            costs += [1.0 if cost == "components" else price[site.kind] * units for units in own.tolist()]
        every = torch.tensor(costs).repeat(max(1, len(parts)))
        return cls(places, every / every.min(), parts)

    def __len__(self) -> int:
        return len(self.costs)

    @property
    def alike(self) -> bool:
        """Whether all cost the same, so that a budget is a number of components."""
        return bool((self.costs == 1).all())

    def cost(self, chosen: Bool[Tensor, "*mask component"]) -> Float[Tensor, "*mask"]:
        """What each set costs."""
        cost: Tensor = chosen.float() @ self.costs
        return cost

    def left(self, chosen: Bool[Tensor, " component"], k: float) -> float:
        """What a budget leaves beside a set."""
        return k * (1 + ROUNDING) - float(self.cost(chosen))

    def gates(self, m: Float[Tensor, "*mask component"]) -> dict[Site, Float[Tensor, "*mask unit"]]:
        """Shares that are replaced, 0 to 1, as the gates of the nodes: 1 = its own value. With parts, one for each."""
        m = self._by_part(m) if self.parts else m
        return {site: 1 - m[..., place] for site, place in self.places.items()}

    def spread(self, values: Float[Tensor, " component"]) -> dict[Site, Float[Tensor, " unit"]]:
        """Each unit with its component's value; of several parts the largest."""
        values = self._by_part(values).amax(0)
        return {site: values[place].clone() for site, place in self.places.items()}

    def kept(self, chosen: Bool[Tensor, " component"]) -> dict[Site, Bool[Tensor, " unit"]]:
        """The units of the chosen components, in whatever part."""
        chosen = self._by_part(chosen).any(0)
        return {site: chosen[place].clone() for site, place in self.places.items()}

    def kept_at(self, chosen: Bool[Tensor, " component"]) -> dict[str, dict[Site, Bool[Tensor, " unit"]]] | None:
        """The same part by part; None where there are no parts."""
        if not self.parts:
            return None
        return {
            part: {site: own[place].clone() for site, place in self.places.items()}
            for part, own in zip(self.parts, self._by_part(chosen), strict=True)
        }

    def _by_part(self, values: Tensor) -> Tensor:
        by_part: Tensor = values.unflatten(-1, (max(1, len(self.parts)), -1))
        return by_part


def fitting(
    values: Float[Tensor, " component"],
    components: Components,
    k: float,
    fixed: Bool[Tensor, " component"] | None = None,
) -> Bool[Tensor, " component"]:
    """The fixed components, and the others of the highest values, one after another, those left out that do not fit."""
    taken = torch.zeros(len(values), dtype=torch.bool) if fixed is None else fixed.clone()
    order = values.masked_fill(taken, torch.inf).sort(descending=True, stable=True).indices
    if components.alike:
        return taken.index_fill(0, order[: int(k)], True)
    left = components.left(taken, k)
    for each, cost in zip(order.tolist(), components.costs[order].tolist(), strict=True):
        if not taken[each] and cost <= left:
            taken[each], left = True, left - cost
    return taken


def _prices(subject: Subject, kinds: Sequence[Kind], cost: Cost) -> dict[Kind, float]:
    """What a unit of each kind costs: the numbers that it is, or the weights that make and read it."""
    if cost == "components":
        return {}
    if cost == "units":
        return {kind: subject.width(kind) / subject.units(kind) for kind in kinds}
    prices = Prices.of(subject, "parameters", 0, kinds)
    hidden, channels, unit = subject.units(Kind.MLP_OUT), subject.layout.channels, dict(prices.unit)
    unit[Kind.HEAD] += channels * unit[Kind.CHANNEL]  # where both have gates, the head's own are its queries and keys
    unit[Kind.ATTN] = unit[Kind.HEAD] * subject.units(Kind.HEAD)
    unit[Kind.MLP] = unit[Kind.NEURON] * subject.units(Kind.NEURON)
    unit[Kind.BLOCK] = unit[Kind.ATTN] + unit[Kind.MLP]
    unit[Kind.MLP_OUT] = float(subject.units(Kind.NEURON))
    return unit | dict.fromkeys((Kind.Q, Kind.K, Kind.V), float(hidden * channels))


def check_apart(kinds: Sequence[Kind]) -> None:
    """Raises UsageError when components of two kinds hold the same part of the model."""
    for first in kinds:
        for second in kinds:
            if second in _around(first) or {first, second} in OVERLAPPING:
                raise UsageError(
                    f"components overlap: {first} and {second} hold the same part of a layer",
                    "give kinds that lie apart, for example head,mlp or head,neuron",
                )


def _around(kind: Kind) -> list[Kind]:
    found = []
    while kind in PARENT:
        kind = PARENT[kind]
        found.append(kind)
    return found
