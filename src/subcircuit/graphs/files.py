"""Graphs in folders: `graph.json` and `graph.safetensors`."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from subcircuit.errors import DataError
from subcircuit.files import atomically, save_record
from subcircuit.graphs.graph import Graph
from subcircuit.graphs.influence import quality
from subcircuit.graphs.records import GRAPH, GraphFile, TargetFile

__all__ = ["load_graph", "save_graph"]

TENSORS = "graph.safetensors"


def save_graph(graph: Graph, folder: Path, **more: Any) -> GraphFile:
    """Write a graph, each file whole or not at all; `more` are fields of its `graph.json`. Raises ResourceError."""
    file = _file(graph, more)
    rows, sources = _rows(graph), graph.target_nodes.start
    tensors = {
        "adjacency": graph.adjacency[rows, :sources].contiguous(),  # only features and targets have inputs
        "features": graph.features.contiguous(),
        "activations": graph.activations.contiguous(),
        "constants": graph.constants[rows].contiguous(),
        "rest": graph.rest[rows].contiguous(),
    }
    atomically(folder / TENSORS, lambda to: save_file(tensors, to))
    save_record(file, folder / GRAPH)
    return file


def load_graph(folder: Path) -> Graph:
    """A saved graph. Raises DataError when a file is missing, broken or does not fit the other."""
    file, path = GraphFile.read(folder), folder / TENSORS
    try:
        tensors = load_file(path)
        features, adjacency = tensors["features"], tensors["adjacency"]
    except (SafetensorError, OSError, KeyError) as error:
        raise DataError(f"{path} cannot be read: {error}", "make the graph again") from error
    sources = len(features) + (file.layers + 1) * len(file.tokens)
    nodes = sources + len(file.targets)
    rows = torch.cat([torch.arange(len(features)), torch.arange(sources, nodes)])
    if adjacency.shape != (len(rows), sources):
        raise DataError(f"{path} is not of the graph in {GRAPH}", "make the graph again")
    square, constants, rest = torch.zeros(nodes, nodes), torch.zeros(nodes), torch.zeros(nodes)
    square[rows, :sources], constants[rows], rest[rows] = adjacency, tensors["constants"], tensors["rest"]
    return Graph(
        adjacency=square,
        features=features,
        activations=tensors["activations"],
        layers=file.layers,
        tokens=tuple(file.tokens),
        words=tuple(file.words),
        targets=tuple(each.token for each in file.targets),
        labels=tuple(each.label for each in file.targets),
        weights=torch.tensor([each.weight for each in file.targets]),
        logits=torch.tensor([each.logit for each in file.targets]),
        constants=constants,
        rest=rest,
        prompt=file.prompt,
        model=file.model,
        scan=file.scan,
        active=file.active,
    )


def _file(graph: Graph, more: dict[str, Any]) -> GraphFile:
    found = quality(graph)
    each = zip(graph.targets, graph.labels, graph.weights.tolist(), graph.logits.tolist(), strict=True)
    return GraphFile(
        model=graph.model,
        scan=graph.scan,
        prompt=graph.prompt,
        tokens=list(graph.tokens),
        words=list(graph.words),
        layers=graph.layers,
        targets=[
            TargetFile(token=token, label=label, weight=weight, logit=logit) for token, label, weight, logit in each
        ],
        features=len(graph.features),
        active=graph.active,
        replacement=found.replacement,
        completeness=found.completeness,
        **more,
    )


def _rows(graph: Graph) -> torch.Tensor:
    return torch.cat([torch.arange(len(graph.features)), torch.arange(graph.target_nodes.start, len(graph))])
