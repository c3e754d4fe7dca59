"""GraphML read back by a plain XML parser, and by networkx where it is installed."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from edge_circuits import circuit_of, origin
from subcircuit.circuit import Circuit
from subcircuit.edge_tables import Edges
from subcircuit.errors import UsageError
from subcircuit.interchange import write_graphml
from subcircuit.sites import Kind, Site
from subcircuit.wiring import Wiring

SPACE = "{http://graphml.graphdrawing.org/xmlns}"
WIRING = Wiring(layers=1, heads=2, groups=1)
KEPT = ("input->0.v.0", "0.head.1->0.mlp", "0.mlp->logits", "input->0.q.1")


@pytest.fixture
def circuit() -> Circuit:
    """The shared value feeds both heads, of which only the second is read on."""
    kept, scores = torch.zeros_like(WIRING.allowed), torch.zeros(WIRING.allowed.shape)
    for place, name in enumerate(KEPT):
        kept[WIRING.parse(name)], scores[WIRING.parse(name)] = True, -0.5 * place
    named = origin(model='a "model" <of> ours & theirs')
    return circuit_of(Edges(WIRING, scores, kept)).with_origin(named)


def read(path: Path) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]], ElementTree.Element]:
    """Fields of nodes and edges by name, and the graph."""
    root = ElementTree.parse(path).getroot()
    names = {key.attrib["id"]: key.attrib["attr.name"] for key in root.iter(f"{SPACE}key")}
    (graph,) = root.iter(f"{SPACE}graph")

    def fields(element: ElementTree.Element) -> dict[str, str]:
        return {names[data.attrib["key"]]: str(data.text) for data in element.findall(f"{SPACE}data")}

    nodes = {node.attrib["id"]: fields(node) for node in graph.findall(f"{SPACE}node")}
    edges = {f"{e.attrib['source']}->{e.attrib['target']}": fields(e) for e in graph.findall(f"{SPACE}edge")}
    return nodes, edges, graph


def test_the_kept_graph_is_what_the_file_draws(tmp_path: Path, circuit: Circuit) -> None:
    write_graphml(circuit, tmp_path / "c.graphml")
    nodes, edges, graph = read(tmp_path / "c.graphml")
    assert set(nodes) == {"input", "0.q.1", "0.v.0", "0.head.1", "0.mlp", "logits"}
    assert set(edges) == {*KEPT, "0.v.0->0.head.1", "0.q.1->0.head.1"}
    assert edges["0.mlp->logits"] == {"role": "reads", "score": "-1.0", "weight": "1.0", "kept": "true"}
    assert edges["0.v.0->0.head.1"] == {"role": "part", "weight": "0.0", "kept": "true"}
    assert nodes["0.head.1"] == {"label": "0.head.1", "kind": "head", "layer": "0", "kept": "true", "score": "-0.5"}
    assert graph.attrib["edgedefault"] == "directed"
    assert 'a "model" <of> ours & theirs' in [data.text for data in graph.findall(f"{SPACE}data")]


def test_the_whole_graph_has_every_edge_once(tmp_path: Path, circuit: Circuit) -> None:
    write_graphml(circuit, tmp_path / "c.graphml", all_edges=True)
    nodes, edges, graph = read(tmp_path / "c.graphml")
    assert len(edges) == len(graph.findall(f"{SPACE}edge")) == int(WIRING.allowed.sum()) + 2 * 3
    assert {name for name, fields in edges.items() if fields["role"] == "reads" and fields["kept"] == "true"} == {*KEPT}
    assert {end for name in edges for end in name.split("->")} == set(nodes)


def test_networkx_reads_it_with_its_types(tmp_path: Path, circuit: Circuit) -> None:
    networkx: Any = pytest.importorskip("networkx")
    write_graphml(circuit, tmp_path / "c.graphml")
    graph = networkx.read_graphml(tmp_path / "c.graphml")
    assert graph.is_directed() and not graph.is_multigraph()
    assert graph.edges["0.mlp", "logits"]["score"] == -1.0 and graph.nodes["0.mlp"]["kept"] is True
    paths = [["input", reader, "0.head.1", "0.mlp", "logits"] for reader in ("0.q.1", "0.v.0")]
    assert sorted(networkx.all_simple_paths(graph, "input", "logits")) == paths


def test_a_circuit_of_nodes_has_nothing_to_draw(tmp_path: Path, circuit: Circuit) -> None:
    nodes = Circuit({Site(0, Kind.MLP): torch.ones(1)}, circuit.kept, circuit.origin)
    with pytest.raises(UsageError, match="no edges to draw"):
        write_graphml(nodes, tmp_path / "c.graphml")
