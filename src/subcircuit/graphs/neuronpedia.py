"""Graphs as Neuronpedia and circuit-tracer's page read them: the JSON of Anthropic's attribution graphs, version 1.

Departs from circuit-tracer's files in one thing: an error's id names it as one. There an error of layer 5 at position 3
is `0_5_3`, which is also the id of feature 5 of layer 0 at that position.
"""

import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from subcircuit.errors import DataError, ResourceError, UsageError
from subcircuit.graphs.graph import Graph
from subcircuit.graphs.influence import Pruned

__all__ = ["Document", "Link", "NodeRecord", "document", "node_id", "write_document"]

NAME = re.compile(r"[A-Za-z0-9_.-]+")  # what Neuronpedia takes as a slug and as a model's name
LARGEST = 100 << 20  # bytes of an upload


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NodeRecord(_Strict):
    """A node."""

    node_id: str
    feature: int | None
    layer: str
    ctx_idx: int
    feature_type: str
    jsNodeId: str  # noqa: N815  # as the format spells it
    clerp: str  # what the page shows; a target's must hold "(p="
    token_prob: float = 0.0
    is_target_logit: bool = False
    run_idx: int = 0
    reverse_ctx_idx: int = 0
    influence: float | None = None  # cumulative: the share of more influential nodes and this one
    activation: float | None = None


class Link(_Strict):
    """The direct effect of one node on another."""

    source: str
    target: str
    weight: float


class Document(_Strict):
    """A whole file."""

    metadata: dict[str, Any]
    qParams: dict[str, Any]  # noqa: N815
    nodes: list[NodeRecord]
    links: list[Link] = Field(default_factory=list)


def document(
    graph: Graph,
    pruned: Pruned,
    *,
    slug: str,
    scan: str,
    supernodes: Sequence[tuple[str, Sequence[int]]] = (),
    settings: dict[str, Any] | None = None,
) -> Document:
    """What is left of a graph, with groups of nodes by name.

    `settings` tell how the graph was made and pruned: `generation_settings`, `pruning_settings` and `node_threshold`.
    Raises UsageError for names, DataError for a graph, that Neuronpedia would refuse.
    """
    for what, name in (("slug", slug), ("scan", scan)):
        if not NAME.fullmatch(name):
            raise UsageError(
                f"Neuronpedia would refuse the {what} '{name}'", "use letters, digits, '_', '.' and '-' only"
            )
    kept = pruned.nodes.nonzero()[:, 0].tolist()
    if not any(node < graph.token_nodes.start and int(graph.places[node, 0]) > 0 for node in kept):
        raise DataError("no node above layer 0 is left, and Neuronpedia's page shows no such graph", "prune less")
    groups = [
        [label, *(node_id(graph, node) for node in nodes if bool(pruned.nodes[node]))] for label, nodes in supernodes
    ]
    return Document(
        metadata={
            "slug": slug,
            "scan": scan,
            "schema_version": 1,
            "prompt": graph.prompt,
            "prompt_tokens": list(graph.words),
            "info": {"generator": {"name": "subcircuit", "version": version("subcircuit")}},
            **(settings or {}),
        },
        qParams={
            "pinnedIds": [],
            "supernodes": [group for group in groups if len(group) > 1],
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        nodes=[_node(graph, node, float(pruned.cumulative[node])) for node in kept],
        links=_links(graph, pruned),
    )


def write_document(made: Document, path: Path) -> None:
    """Write it. Raises DataError for a file that is too large to upload, ResourceError when it cannot be written."""
    text = made.model_dump_json(indent=1)
    if len(text) > LARGEST:
        raise DataError(
            f"the file would be {len(text) >> 20} MiB, and Neuronpedia takes {LARGEST >> 20}",
            "prune more: smaller --nodes and --edges",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ResourceError(f"{path} cannot be written to: {error.strerror}", "give another --out") from error


def node_id(graph: Graph, node: int) -> str:
    """The id of a node, which no other has."""
    layer, position = graph.places[node].tolist()
    if node < graph.error_nodes.start:
        return f"{layer}_{int(graph.features[node, 2])}_{position}"
    if node < graph.token_nodes.start:
        return f"{layer}_error_mlp_{position}"
    if node < graph.target_nodes.start:
        return f"E_{graph.tokens[position]}_{position}"
    return f"{graph.layers + 1}_{graph.targets[node - graph.target_nodes.start]}_{position}"


def _node(graph: Graph, node: int, cumulative: float) -> NodeRecord:
    name, (layer, position) = node_id(graph, node), graph.places[node].tolist()
    if node < graph.error_nodes.start:
        number = int(graph.features[node, 2])
        both = layer + number
        return NodeRecord(
            node_id=name,
            feature=both * (both + 1) // 2 + number,  # Cantor's number of the pair
            layer=str(layer),
            ctx_idx=position,
            feature_type="cross layer transcoder",
            jsNodeId=f"{layer}_{number}-0",
            clerp="",
            influence=cumulative,
            activation=float(graph.activations[node]),
        )
    more: dict[str, Any]
    if node < graph.token_nodes.start:
        more = {"feature": -1, "layer": str(layer), "feature_type": "mlp reconstruction error", "jsNodeId": f"{name}-0"}
        more |= {"clerp": "", "influence": cumulative}
    elif node < graph.target_nodes.start:
        token = graph.tokens[position]
        more = {"feature": position, "layer": "E", "feature_type": "embedding", "jsNodeId": f"E_{token}-{position}"}
        more |= {"clerp": "", "influence": cumulative}
    else:
        which = node - graph.target_nodes.start
        token, chance = graph.targets[which], float(graph.weights[which])
        more = {"feature": token, "layer": str(graph.layers + 1), "feature_type": "logit"}
        more |= {"jsNodeId": f"L_{token}-{position}", "clerp": f'Output "{graph.labels[which]}" (p={chance:.3f})'}
        more |= {"token_prob": chance, "is_target_logit": which == 0}
    return NodeRecord(node_id=name, ctx_idx=position, **more)


def _links(graph: Graph, pruned: Pruned) -> list[Link]:
    names = [node_id(graph, node) if kept else "" for node, kept in enumerate(pruned.nodes.tolist())]
    targets, sources = pruned.edges.nonzero(as_tuple=True)
    weights = graph.adjacency[targets, sources].tolist()
    each = zip(targets.tolist(), sources.tolist(), weights, strict=True)
    return [Link(source=names[source], target=names[target], weight=weight) for target, source, weight in each]
