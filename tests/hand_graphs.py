"""Graphs drawn by hand: one position, a layer per feature."""

from collections.abc import Mapping

import torch

from subcircuit.graphs.graph import Graph

__all__ = ["drawn"]


def drawn(features: int, effects: Mapping[tuple[str, str], float], *, layers: int = 0, targets: int = 1) -> Graph:
    """Of effects by (source, target): feature `f0`, error `e0` of layer 0, token `t`, logit `l0`.

    Feature i is in layer i, or, of fewer layers than features, in layer `i * layers // features`.
    """
    layers = layers or features
    names = [f"f{i}" for i in range(features)] + [f"e{i}" for i in range(layers)] + ["t"]
    names += [f"l{i}" for i in range(targets)]
    adjacency = torch.zeros(len(names), len(names))
    for (source, target), effect in effects.items():
        adjacency[names.index(target), names.index(source)] = effect
    return Graph(
        adjacency=adjacency,
        features=torch.tensor([[i * layers // features, 0, 10 + i] for i in range(features)]).view(-1, 3),
        activations=adjacency[:features].sum(1),
        layers=layers,
        tokens=(7,),
        words=("x",),
        targets=tuple(range(targets)),
        labels=tuple(f"y{i}" for i in range(targets)),
        weights=torch.tensor([0.75, 0.25][:targets]) if targets > 1 else torch.ones(1),
        logits=adjacency[len(names) - targets :].sum(1),
        constants=torch.zeros(len(names)),
        rest=torch.zeros(len(names)),
        prompt="x",
        model="drawn",
        active=features,
    )
