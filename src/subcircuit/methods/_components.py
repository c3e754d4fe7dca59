"""What causal tracing replaces as one: a node, or several side by side where a granularity has thousands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from subcircuit.errors import UsageError
from subcircuit.sites import PARENT, Kind, Site
from subcircuit.subject import Subject

__all__ = ["Components", "check_apart"]

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
    """Components by number: layer by layer, in a layer kind by kind."""

    places: Mapping[Site, Int[Tensor, " unit"]]  # the component that each unit belongs to
    count: int

    @classmethod
    def of(cls, subject: Subject, kinds: Sequence[Kind], group: int = 1) -> "Components":
        """The components of a model: `group` units of a fine kind are one."""
        places, count = {}, 0
        for site in subject.sites(*kinds):
            size = group if site.kind in FINE else 1
            places[site] = count + torch.arange(subject.units(site.kind)) // size
            count = int(places[site][-1]) + 1
        return cls(places, count)

    def __len__(self) -> int:
        return self.count

    def gates(self, m: Float[Tensor, "*mask component"]) -> dict[Site, Float[Tensor, "*mask unit"]]:
        """Shares that are replaced, 0 to 1, as the gates of the nodes: 1 = its own value."""
        return {site: 1 - m[..., place] for site, place in self.places.items()}

    def spread(self, values: Float[Tensor, " component"]) -> dict[Site, Float[Tensor, " unit"]]:
        """Each unit with its component's value."""
        return {site: values[place].clone() for site, place in self.places.items()}

    def kept(self, chosen: Bool[Tensor, " component"]) -> dict[Site, Bool[Tensor, " unit"]]:
        """The units of the chosen components."""
        return {site: chosen[place].clone() for site, place in self.places.items()}


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
