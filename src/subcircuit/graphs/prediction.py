"""What a graph says of features that change: on its targets directly, and by way of all other features.

    direct_T = sum over changed s of A_Ts r_s          through_T = sum over all s of A_Ts r_s

`r_s` is how much a feature changes as a share of its activation. Those that are changed have it given. Every other one
has what reaches it, `r_t = sum over s of A_ts r_s / a_t`, and -1 at least, since a feature cannot be less than off.
Tokens and errors stay. As everywhere in a graph, attention patterns and norms are held, and what was off stays off.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.graphs.graph import Graph

__all__ = ["Prediction", "predicted"]


@dataclass(frozen=True)
class Prediction:
    """By how much each target changes, in its own unit: logits."""

    direct: Float[Tensor, " target"]
    through: Float[Tensor, " target"]


def predicted(graph: Graph, changed: Bool[Tensor, " feature"], shares: Float[Tensor, " feature"]) -> Prediction:
    """Of these features changed by these shares of their activations: -1 switches one off."""
    count, into = len(graph.features), graph.adjacency[graph.target_nodes, : len(graph.features)]
    own = torch.where(changed, shares, 0.0)
    every = own.clone()
    for layer in range(1, graph.layers):
        free = ((graph.features[:, 0] == layer) & ~changed).nonzero()[:, 0]
        every[free] = (graph.adjacency[free, :count] @ every / graph.activations[free]).clamp(min=-1)
    return Prediction(into @ own, into @ every)
