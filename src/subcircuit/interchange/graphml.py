"""GraphML, for Gephi, networkx, yEd and Cytoscape: plain XML, one file, no parallel edges.

A head's query, key and value are nodes of their own: "1.head.2" writes to "3.q.5", and "3.q.5" belongs to "3.head.5" by
an edge of the role `part`. A key or value that several heads share belongs to all of them.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from subcircuit.circuit import Circuit
from subcircuit.edge_tables import Edges, live_nodes
from subcircuit.errors import UsageError
from subcircuit.sites import Kind, Node, Site
from subcircuit.wiring import INPUT, LOGITS, PROJECTIONS

__all__ = ["write_graphml"]

NAMESPACE = "http://graphml.graphdrawing.org/xmlns"
READS, PART = "reads", "part"
FIELDS: Mapping[str, Mapping[str, str]] = {  # GraphML's type of every field
    "node": {"label": "string", "kind": "string", "layer": "int", "kept": "boolean", "score": "double"},
    "edge": {"role": "string", "score": "double", "weight": "double", "kept": "boolean"},
    "graph": {"model": "string", "revision": "string", "task": "string", "method": "string", "reference": "string"},
}

Values = Mapping[str, str | int | float | bool]


def write_graphml(circuit: Circuit, path: str | Path, *, all_edges: bool = False) -> None:
    """Write the kept edges and the nodes they join; with `all_edges`, the whole graph, told apart by `kept`.

    An edge's `weight` is its score without the sign, as layouts want it. Raises UsageError for a circuit without edges.
    """
    if circuit.edges is None:
        raise UsageError(
            "the circuit is one of nodes: it has no edges to draw", "find it with a method on edges, or export eap-ig"
        )
    root = Element("graphml", xmlns=NAMESPACE)
    for what, fields in FIELDS.items():
        for name, kind in fields.items():
            SubElement(root, "key", {"id": f"{what}-{name}", "for": what, "attr.name": name, "attr.type": kind})
    graph = SubElement(root, "graph", id="circuit", edgedefault="directed")
    _fields(graph, "graph", {name: str(getattr(circuit.origin, name)) for name in FIELDS["graph"]})
    nodes, edges = _nodes(circuit, circuit.edges), list(_edges(circuit.edges))
    shown = {name for name, values in nodes.items() if all_edges or values["kept"]}
    for name in (name for name in nodes if name in shown):
        _fields(SubElement(graph, "node", id=name), "node", nodes[name])
    for source, target, values in edges:
        if all_edges or (values["kept"] and {source, target} <= shown):
            _fields(SubElement(graph, "edge", source=source, target=target), "edge", values)
    _write(root, Path(path))


def _nodes(circuit: Circuit, edges: Edges) -> dict[str, Values]:
    """Writers, queries, keys, values and the logits, in the order of computation."""
    wiring = edges.wiring
    alive = live_nodes(wiring, edges.kept)
    takes_in = edges.kept.any(1)
    found: dict[str, Values] = {INPUT: {"label": INPUT, "kind": INPUT, "kept": True}}
    for layer in range(wiring.layers):
        for kind in PROJECTIONS:
            rows = wiring.rows(Site(layer, kind))
            for unit, row in enumerate(range(rows.start, rows.stop)):
                name = str(Node(Site(layer, kind), unit))
                found[name] = {"label": name, "kind": str(kind), "layer": layer, "kept": bool(takes_in[row])}
        for kind in (Kind.HEAD, Kind.MLP):
            site = Site(layer, kind)
            for unit, column in enumerate(range(*wiring.columns(site).indices(len(wiring.writers)))):
                name = wiring.writers[column]
                values: dict[str, str | int | float | bool] = {
                    "label": name,
                    "kind": str(kind),
                    "layer": layer,
                    "kept": bool(alive[site][unit]),
                }
                if site in circuit.scores:
                    values["score"] = float(circuit.scores[site][unit])
                found[name] = values
    return {**found, LOGITS: {"label": LOGITS, "kind": LOGITS, "layer": wiring.layers, "kept": True}}


def _edges(edges: Edges) -> Iterator[tuple[str, str, Values]]:
    """Source, target and fields: what is read, then which head a query, key or value is part of."""
    wiring = edges.wiring
    scores, kept = edges.scores.tolist(), edges.kept.tolist()
    for reader, writer in wiring.allowed.nonzero().tolist():
        score = scores[reader][writer]
        values = {"role": READS, "score": score, "weight": abs(score), "kept": kept[reader][writer]}
        yield wiring.writers[writer], wiring.readers[reader], values
    alive, takes_in = live_nodes(wiring, edges.kept), edges.kept.any(1)
    for layer in range(wiring.layers):
        for kind in PROJECTIONS:
            units = range(*wiring.rows(Site(layer, kind)).indices(len(wiring.readers)))
            shared = wiring.heads // len(units)
            for head in range(wiring.heads):
                reader = Node(Site(layer, kind), head // shared)
                truth = bool(alive[Site(layer, Kind.HEAD)][head] & takes_in[units[head // shared]])
                yield str(reader), str(Node(Site(layer, Kind.HEAD), head)), {"role": PART, "weight": 0.0, "kept": truth}


def _fields(element: Element, what: str, values: Values) -> None:
    for name, value in values.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        SubElement(element, "data", key=f"{what}-{name}").text = text


def _write(root: Element, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    indent(root)
    partial = path.with_name(f"{path.name}.part")
    ElementTree(root).write(partial, encoding="utf-8", xml_declaration=True)
    os.replace(partial, path)
