"""What a node costs, and what a set of gates is expected to cost.

A node inside a closed parent costs nothing, so the expected cost is a sum of products of the gates' probabilities along
each line of the hierarchy. Attention channels cost a row of V and a column of the output projection; heads their rows
of Q and K (a key head's rows are shared out over its group); neurons their part of the MLP's weights.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subcircuit.errors import UnknownName
from subcircuit.layout import spread
from subcircuit.sites import PARENT, Kind
from subcircuit.subject import Subject

__all__ = ["Cost", "Prices"]

Cost = Literal["parameters", "nodes", "flops"]
Gates = Mapping[Kind, Float[Tensor, "layer unit"]]


@dataclass(frozen=True)
class Prices:
    """The cost of one unit of each kind, in one currency, and how many units there are."""

    unit: Mapping[Kind, float]
    units: Mapping[Kind, int]  # in a layer
    layers: int
    written: float = 0.0  # the share of a neuron's weights that write to the residual stream

    @classmethod
    def of(cls, subject: Subject, cost: Cost, tokens: float, kinds: Collection[Kind] = ()) -> "Prices":
        """Prices of a model, for gates of these `kinds`: only gated key/value groups are paid for by themselves.

        FLOPs are those of one forward pass over a prompt of `tokens` tokens, per token.
        """
        if cost not in get_args(Cost):
            raise UnknownName("cost", cost, get_args(Cost))
        heads, groups = subject.units(Kind.HEAD), subject.units(Kind.K)
        hidden, channels = subject.units(Kind.MLP_OUT), subject.layout.channels
        neurons, matrices = subject.units(Kind.NEURON), _mlp_weights(subject)
        shared = 0.0 if Kind.KV in kinds else groups / heads  # of a key head's rows, by each head of its group
        unit: dict[Kind, float] = {
            Kind.HEAD: hidden * channels * (1 + shared),
            Kind.CHANNEL: hidden * (1 + shared),
            Kind.NEURON: matrices / neurons,
        }
        if Kind.KV in kinds:
            unit[Kind.KV] = 2 * hidden * channels
        if cost == "flops":
            unit = {kind: 2 * weights for kind, weights in unit.items()}
            unit[Kind.HEAD] += 4 * tokens * channels  # attention scores and their mixture
        elif cost == "nodes":
            unit = dict.fromkeys((Kind.BLOCK, Kind.ATTN, Kind.MLP, *unit, *kinds), 1.0)
        written = 0.0 if cost == "nodes" else neurons * hidden / matrices
        return cls(unit, {kind: subject.units(kind) for kind in unit}, len(subject), written)

    def expected(self, p: Gates) -> Float[Tensor, ""]:
        """Expected share of the whole model's cost, for gates open with probability `p`; missing kinds are open."""
        one = next(iter(p.values())).new_ones(self.layers, 1)
        lines = {Kind.BLOCK: p.get(Kind.BLOCK, one)}
        for kind in (Kind.ATTN, Kind.MLP, Kind.HEAD, Kind.KV, Kind.CHANNEL, Kind.NEURON, Kind.MLP_OUT):
            lines[kind] = _inside(lines[PARENT[kind]], p.get(kind, one))
        if Kind.MLP_OUT in p:  # a closed output channel takes its row of every neuron's output weights
            closed = 1 - p[Kind.MLP_OUT].mean(1, keepdim=True)
            lines[Kind.NEURON] = lines[Kind.NEURON] * (1 - self.written * closed)
        whole = {kind: price * self.units[kind] for kind, price in self.unit.items()}
        paid = torch.stack([lines[kind].mean() * total for kind, total in whole.items()]).sum()
        return paid / sum(whole.values())


def _inside(parent: Tensor, child: Tensor) -> Tensor:
    """Children's own probabilities times their parents'."""
    return spread(parent, max(parent.shape[1], child.shape[1])) * child


def _mlp_weights(subject: Subject) -> int:
    """Weights of a layer's matrices that belong to none of its attention projections."""
    taps = (subject.family.taps[kind].module for kind in (Kind.Q, Kind.K, Kind.V, Kind.HEAD))
    attention = sum(_matrices(subject.module(0, path)) for path in set(taps))
    return _matrices(subject.module(0, "")) - attention


def _matrices(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters() if weight.dim() == 2)
