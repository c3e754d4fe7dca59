"""From a file of another library to a circuit of ours, with an origin that says so."""

import hashlib
from pathlib import Path
from typing import Any

from subcircuit.circuit import Circuit, Origin
from subcircuit.edge_tables import Edges, best, connected, live_nodes, node_scores
from subcircuit.errors import DataError, UsageError
from subcircuit.interchange.eap_ig import Graph, read_eap_ig
from subcircuit.sites import Kind
from subcircuit.subject import Subject
from subcircuit.wiring import Wiring

__all__ = ["METHOD", "import_eap_ig"]

METHOD = "imported"


def import_eap_ig(
    path: str | Path,
    subject: Subject,
    task: str,
    *,
    task_options: dict[str, Any] | None = None,
    reference: str = "corrupt",
    edges: int | None = None,
    merge: bool = False,
    negate: bool = False,
) -> Circuit:
    """The circuit of an EAP-IG or MIB file.

    Args:
        subject: the model the scores are of; its weights are not needed.
        reference: what filled an ablated edge when the scores were computed.
        edges: keep the best so many edges by signed score, connected ones only; by default those in the file's graph.
        merge, negate: as in `read_eap_ig`.

    Raises DataError for a file that is broken or not of this model, UnsupportedModel for an encoder.
    """
    wiring, width = Wiring.of(subject.layout), subject.units(Kind.MLP_OUT)
    graph = read_eap_ig(path, wiring, d_model=width, merge=merge, negate=negate)
    origin = Origin(
        model=subject.name,
        revision=subject.revision,
        family=subject.family_name,
        dtype=str(subject.dtype).removeprefix("torch."),
        task=task,
        task_options=task_options or {},
        method=METHOD,
        settings={
            "file": Path(path).name,
            "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
            "edges": edges,
            "merge": merge,
            "negate": negate,
        },
        reference=reference,
        seed=0,
        pairs={},
        seconds=0.0,
    )
    if graph.of_nodes:
        if edges is not None:
            raise UsageError(f"{path} scores nodes, not edges", "leave --edges out")
        assert graph.nodes is not None
        return Circuit(graph.nodes, _some(graph, path), origin)
    table = _chosen(graph.edges, path, edges)
    return Circuit(node_scores(wiring, table.scores), live_nodes(wiring, table.kept), origin, table)


def _chosen(table: Edges, path: str | Path, edges: int | None) -> Edges:
    if edges is not None:
        if edges < 1:
            raise UsageError(f"{edges} edges are no circuit", "give 1 or more")
        table = Edges(table.wiring, table.scores, connected(table.wiring, best(table.wiring, table.scores, edges)))
        if not table.kept.any():
            raise DataError(f"none of the {edges} best edges of {path} leads from the input to the logits", "keep more")
    if not table.kept.any():
        raise DataError(f"no edge of {path} is in the graph, it only has scores", "--edges N keeps the N best of them")
    return table


def _some(graph: Graph, path: str | Path) -> Any:
    if not any(truth.any() for truth in graph.kept.values()):
        raise DataError(f"no node of {path} is in the graph, it only has scores", "export it with the nodes chosen")
    return graph.kept
