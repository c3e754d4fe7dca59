"""What the page of an attribution graph is told: the most influential nodes, every effect between them, groups."""

import shlex
from dataclasses import fields
from pathlib import Path

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from subcircuit.errors import UsageError
from subcircuit.graphs.attribution import Attribution
from subcircuit.graphs.coarsening import coarsen, within
from subcircuit.graphs.examples import Example, Examples
from subcircuit.graphs.files import load_graph
from subcircuit.graphs.graph import Graph
from subcircuit.graphs.influence import cumulative, node_influence
from subcircuit.graphs.records import GRAPH, GraphFile
from subcircuit.report.arrays import Arrays, Part, Place

__all__ = ["MOST", "GraphNode", "GraphPage", "GraphPayload", "graph_payload", "is_graph"]

MOST = 600  # features and errors: as many as a page can draw, and as a reader will ever look at
LOW = 0.5  # scores below which most of the model is outside of the graph


class GraphNode(Part):
    """A node. What it sends to whom is in the table of effects."""

    name: str
    kind: str = Field(description="feature, error, token or target")
    layer: int = Field(description="-1 for a token, one past the last for a target")
    position: int
    influence: float
    share: float = Field(description="of all influence: what more influential nodes and this one have")
    activation: float | None = Field(description="of a feature; of a target its logit, less the mean of all")
    inputs: float = Field(description="sizes of all effects on it, of nodes that are not listed too")


class GraphPage(Part):
    """A graph, pruned."""

    folder: str
    file: GraphFile
    nodes: list[GraphNode] = Field(description="features, errors, tokens, targets")
    effects: Place = Field(description="of each node (column) on each (row)")
    levels: list[list[int]] = Field(description="the group of each feature, level by level, the finest first")
    examples: dict[str, list[Example]] = Field(description="texts that turn on a feature, by layer.number")
    left_out: int = Field(description="features and errors with influence that are not listed")
    warnings: list[str]
    commands: list[str]


class GraphPayload(Part):
    """All of the page."""

    graph: GraphPage

    @property
    def title(self) -> str:
        """What a browser shows above the page."""
        return f"{self.graph.file.prompt} in {self.graph.file.model}: attribution graph"


def is_graph(folder: Path) -> bool:
    """Whether `subcircuit graph` wrote this folder."""
    return (folder / GRAPH).is_file()


def graph_payload(*folders: str) -> tuple[GraphPayload, Arrays]:
    """Read the graph of a folder. Raises UsageError for a second folder, DataError for broken files."""
    if len(folders) > 1:
        raise UsageError(
            f"a page shows one attribution graph, and {len(folders)} folders are given: {', '.join(folders)}",
            "report each of them by itself",
        )
    place, arrays = Path(folders[0]), Arrays()
    file, graph, examples = GraphFile.read(place), load_graph(place), Examples.load(place)
    kept = _listed(graph, MOST)
    features = kept[kept < graph.feature_nodes.stop]
    levels = coarsen(within(graph, features)).levels if len(features) else ()
    names = {graph.name(node).partition("@")[0] for node in features.tolist()}
    reached = int((node_influence(graph)[: graph.token_nodes.start] > 0).sum())
    page = GraphPage(
        folder=str(place),
        file=file,
        nodes=_nodes(graph, kept),
        effects=arrays.add(graph.adjacency[kept][:, kept].numpy(), "f4"),
        levels=[level.tolist() for level in levels],
        examples={name: each for name, each in examples.features.items() if name in names} if examples else {},
        left_out=reached - int((kept < graph.token_nodes.start).sum()),
        warnings=_warnings(file),
        commands=[_command(place, file)],
    )
    return GraphPayload(graph=page), arrays


def _listed(graph: Graph, most: int) -> Int[Tensor, " listed"]:
    """The most influential features and errors, all tokens, all targets; in the graph's order."""
    found = node_influence(graph)[: graph.token_nodes.start]
    best = found.argsort(descending=True, stable=True)[: min(most, int((found > 0).sum()))]
    return torch.cat([best.sort().values, torch.arange(graph.token_nodes.start, len(graph))])


def _nodes(graph: Graph, kept: Int[Tensor, " listed"]) -> list[GraphNode]:
    found, values, places = node_influence(graph), graph.values, graph.places
    shares, inputs = cumulative(found), graph.adjacency.abs().sum(1)
    bounds = (graph.feature_nodes.stop, graph.error_nodes.stop, graph.token_nodes.stop)
    return [
        GraphNode(
            name=graph.name(node),
            kind=("feature", "error", "token", "target")[sum(node >= bound for bound in bounds)],
            layer=int(places[node, 0]),
            position=int(places[node, 1]),
            influence=float(found[node]),
            share=float(shares[node]),
            activation=float(values[node]) if node < bounds[0] or node >= bounds[2] else None,
            inputs=float(inputs[node]),
        )
        for node in kept.tolist()
    ]


def _warnings(file: GraphFile) -> list[str]:
    told = []
    if file.replacement < LOW:
        told.append(
            f"Replacement score {file.replacement:.2f}: most of the influence starts at errors, which nothing explains."
        )
    return told


def _command(place: Path, file: GraphFile) -> str:
    """`graph` with every setting that is not its default."""
    words = ["subcircuit", "graph", "--model", file.model, "--prompt", file.prompt]
    words += ["--transcoders", file.transcoders.get("folder", "TRANSCODERS")]
    if file.revision and not file.revision.startswith("sha256:"):
        words += ["--revision", file.revision]
    defaults = {field.name: field.default for field in fields(Attribution)}
    for name, value in file.settings.items():
        if value != defaults.get(name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join([*words, "--out", str(place)])
