"""Folders of attribution graphs for the page: random effects that respect layers and positions, heavy in the tail."""

from pathlib import Path

import torch

from subcircuit.graphs.examples import Example, Examples
from subcircuit.graphs.files import save_graph
from subcircuit.graphs.graph import Graph

__all__ = ["graph_folder", "random_graph"]

WORDS = ("<s>", "The", " capital", " of", " the", " state", " with", " Dallas", " is")
TARGETS = {" Austin": 0.62, " the": 0.21, " Texas": 0.09, " Houston": 0.04}


def random_graph(layers: int = 6, per_layer: int = 24, seed: int = 0) -> Graph:
    """Few sources reach a target from below it, at its position or before; most of the effects are small."""
    generator = torch.Generator().manual_seed(seed)
    size, count = len(WORDS), layers * per_layer
    positions = torch.randint(1, size, (layers, per_layer), generator=generator).sort(1).values.flatten()
    numbers = torch.randint(0, 16384, (count,), generator=generator)
    features = torch.stack([torch.arange(layers).repeat_interleave(per_layer), positions, numbers], 1)
    nodes = count + (layers + 1) * size + len(TARGETS)
    graph = Graph(
        adjacency=torch.zeros(nodes, nodes),
        features=features,
        activations=torch.rand(count, generator=generator) * 8 + 0.2,
        layers=layers,
        tokens=tuple(range(size)),
        words=WORDS,
        targets=tuple(range(40, 40 + len(TARGETS))),
        labels=tuple(TARGETS),
        weights=torch.tensor(list(TARGETS.values())),
        logits=torch.linspace(14, 9, len(TARGETS)),
        constants=torch.zeros(nodes),
        rest=torch.zeros(nodes),
        prompt="The capital of the state with Dallas is",
        model="drawn-at-random",
        active=4 * count,
    )
    layer, position = graph.places.unbind(1)
    allowed = (layer[:, None] > layer) & (position[:, None] >= position)
    allowed[graph.error_nodes.start : graph.target_nodes.start] = False
    allowed[:, graph.target_nodes] = False
    near = torch.where(position[:, None] == position, 1.0, 0.35)
    sizes = torch.randn(nodes, nodes, generator=generator).exp() * torch.randn(nodes, nodes, generator=generator)
    sparse = torch.rand(nodes, nodes, generator=generator) < 0.35 * near
    graph.adjacency.copy_(sizes * allowed * sparse)
    graph.adjacency[:, graph.error_nodes] *= 0.4
    return graph


def graph_folder(folder: Path, graph: Graph | None = None) -> Path:
    """A saved graph, with texts for two of its features."""
    made = graph or random_graph()
    names = [made.name(node).partition("@")[0] for node in range(2)]
    example = Example(before="the state of ", token="Texas", after=" is large <b>", activation=7.5)
    settings = {"probability": 0.95, "max_logits": 4}
    save_graph(made, folder, settings=settings, transcoders={"folder": "transcoders"}, seconds=12.0)
    Examples(windows=3, features={name: [example] for name in names}).save(folder)
    return folder
