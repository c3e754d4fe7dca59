"""What of each layer stays: which heads in which place, which neurons.

Attention needs as many query heads for every key/value head. Where a circuit keeps a different number in each group, a
key/value head may be repeated and a place left empty (its weights zero), whichever costs less.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject

__all__ = ["EMPTY", "LayerPlan", "compact_plan", "dense_plan"]

EMPTY = -1  # a place without a head or neuron
Places = tuple[tuple[int, ...], tuple[int, ...]]  # heads, and the key/value heads that serve them in this order
Open = Mapping[Site, Float[Tensor, " unit"]]  # the circuit's gates where they act


@dataclass(frozen=True)
class LayerPlan:
    """Units by their number in the whole model, in the order in which the smaller one has them."""

    heads: tuple[int, ...]
    groups: tuple[int, ...]  # key/value heads; each serves as many heads as the others
    neurons: tuple[int, ...]

    @property
    def attends(self) -> bool:
        return bool(self.heads)


def compact_plan(subject: Subject, gates: Open) -> list[LayerPlan]:
    """Every layer cut to its own size."""
    ratio = subject.units(Kind.HEAD) // subject.units(Kind.K)
    plans = []
    for layer in range(len(subject)):
        grouped = _grouped(_heads(subject, gates, layer), ratio)
        places = min((_places(grouped, size) for size in range(1, ratio + 1)), key=_weight)
        plans.append(LayerPlan(*places, _neurons(subject, gates, layer)))
    return plans


def dense_plan(subject: Subject, gates: Open, *, cut_heads: bool) -> list[LayerPlan]:
    """Every layer cut to the size of the largest. Without `cut_heads` all heads keep their places."""
    layers = range(len(subject))
    neurons = [_neurons(subject, gates, layer) for layer in layers]
    most = max(max(map(len, neurons)), 1)
    heads, groups = subject.units(Kind.HEAD), subject.units(Kind.K)
    ratio = heads // groups
    chosen: list[Places] = [(tuple(range(heads)), tuple(range(groups)))] * len(layers)
    if cut_heads:
        grouped = [_grouped(_heads(subject, gates, layer), ratio) for layer in layers]
        hidden = subject.units(Kind.MLP_OUT)
        sized = (every for size in range(1, ratio + 1) if (every := _uniform(grouped, size, hidden)))
        chosen = min(sized, key=lambda every: _weight(every[0]), default=chosen)
    return [LayerPlan(*places, _filled(own, most)) for places, own in zip(chosen, neurons, strict=True)]


def _heads(subject: Subject, gates: Open, layer: int) -> list[int]:
    """Heads of which anything is open; all of a layer's heads where a norm spans them."""
    gate = gates.get(Site(layer, Kind.CHANNEL))
    count = subject.units(Kind.HEAD)
    alive = gate.view(count, -1).any(-1) if gate is not None else torch.ones(count, dtype=torch.bool)
    if subject.family.wide_norms and alive.any():
        alive = torch.ones_like(alive)
    return _numbers(alive)


def _neurons(subject: Subject, gates: Open, layer: int) -> tuple[int, ...]:
    gate = gates.get(Site(layer, Kind.NEURON))
    return tuple(_numbers(gate.bool()) if gate is not None else range(subject.units(Kind.NEURON)))


def _grouped(heads: Sequence[int], ratio: int) -> dict[int, list[int]]:
    """Heads by the key/value head that serves them."""
    found: dict[int, list[int]] = {}
    for head in heads:
        found.setdefault(head // ratio, []).append(head)
    return found


def _places(grouped: Mapping[int, Sequence[int]], size: int) -> Places:
    """Heads and key/value heads, when each key/value head serves `size` heads."""
    heads: list[int] = []
    groups: list[int] = []
    for group, members in grouped.items():
        for start in range(0, len(members), size):
            heads += _filled(members[start : start + size], size)
            groups.append(group)
    return tuple(heads), tuple(groups)


def _uniform(layers: Sequence[Mapping[int, Sequence[int]]], size: int, hidden: int) -> list[Places]:
    """The places of all layers, as many in each as in the fullest, at least one; nothing where no number will do.

    Stock architectures want a number of heads that divides the width of the residual stream.
    """
    places = [_places(grouped, size) for grouped in layers]
    fullest = max(1, *(len(groups) for _, groups in places))
    most = next((count for count in range(fullest, hidden + 1) if hidden % (count * size) == 0), 0)
    return [(_filled(heads, most * size), _filled(groups, most)) for heads, groups in places] if most else []


def _weight(places: Places) -> int:
    """How many matrices of a head's size: a query and an output per head, a key and a value per group."""
    heads, groups = places
    return len(heads) + len(groups)


def _filled(units: Sequence[int], count: int) -> tuple[int, ...]:
    return (*units, *[EMPTY] * (count - len(units)))


def _numbers(truth: Bool[Tensor, " unit"]) -> list[int]:
    found: list[int] = truth.nonzero()[:, 0].tolist()
    return found
