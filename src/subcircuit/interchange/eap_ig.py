"""Circuit files of EAP-IG (Hanna et al. 2024), which are those of the Mechanistic Interpretability Benchmark (MIB).

Signs: an EAP-IG score is what the metric gains when the edge is ablated. EAP-IG's examples and all of MIB attribute a
metric that is a loss (the negated logit difference), so there, as here, a positive score helps. Files that were made
with the bare logit difference have it the other way round: read them with `negate`.

Where several heads share a key and a value, their files list each head's own. An edge into the shared one is written
once for each head, with an equal share of its score; reading adds the shares up. To first order that is what the
sharing does: the gradient at a shared key is the sum of the gradients at its copies.
"""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.circuit import Circuit
from subcircuit.edge_tables import Edges, live_nodes
from subcircuit.errors import DataError, UsageError
from subcircuit.interchange._document import Document, read_document
from subcircuit.interchange._names import Peers
from subcircuit.sites import Kind, Site
from subcircuit.wiring import ARROW, INPUT, LOGITS, Wiring

__all__ = ["Graph", "read_eap_ig", "write_eap_ig"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Graph:
    """What a file says, in our words."""

    edges: Edges
    nodes: Mapping[Site, Float[Tensor, " unit"]] | None  # scores of heads and MLPs, where the file has them
    kept: Mapping[Site, Bool[Tensor, " unit"]]  # the nodes that the file calls in the graph

    @property
    def of_nodes(self) -> bool:
        """Whether it is nodes that were chosen: they have scores, and no edge has."""
        return self.nodes is not None and not bool(self.edges.scores.any())


def write_eap_ig(circuit: Circuit, path: str | Path, wiring: Wiring, *, d_model: int) -> None:
    """Write a circuit of edges, or one of nodes that has a score for every head and every MLP.

    Args:
        wiring: the model's graph.
        d_model: width of the residual stream; part of the file.

    Raises UsageError for a circuit of another graph or of other nodes.
    """
    peers = Peers(wiring)
    if circuit.edges is None:
        nodes, edges = _of_nodes(circuit, peers)
    else:
        if circuit.edges.wiring != wiring:
            raise UsageError(f"the circuit's edges are of {circuit.edges.wiring}, the model has {wiring}")
        nodes, edges = _of_edges(circuit.edges, peers)
    cfg = {
        "n_layers": wiring.layers,
        "n_heads": wiring.heads,
        "parallel_attn_mlp": wiring.parallel,
        "d_model": d_model,
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"cfg": cfg, "nodes": nodes, "edges": edges}, allow_nan=False)
    (partial := path.with_name(f"{path.name}.part")).write_text(text, encoding="utf-8")
    os.replace(partial, path)


def read_eap_ig(
    path: str | Path, wiring: Wiring, *, d_model: int | None = None, merge: bool = False, negate: bool = False
) -> Graph:
    """Read a file against a model's graph.

    Args:
        d_model: the model's width, to hold against the file's.
        merge: keep a shared key or value when any of its heads does, instead of refusing.
        negate: turn the signs round: the file's scores are of a metric that is no loss.

    Raises DataError for a file that is broken, or not of this graph: it names the field, node or edge.
    """
    document, peers = read_document(path), Peers(wiring)
    _check_cfg(document, wiring, d_model)
    kept, nodes = _read_nodes(document, peers)
    by_nodes = nodes is not None and not any(entry.score for entry in document.edges.values())
    edges = _read_edges(document, peers, merge or by_nodes)  # there edges only follow from nodes, head by head
    if negate:
        edges = Edges(wiring, -edges.scores + 0.0, edges.kept)  # no -0.0
        nodes = {site: -score + 0.0 for site, score in nodes.items()} if nodes else None
    return Graph(edges, nodes, kept)


def _of_edges(edges: Edges, peers: Peers) -> tuple[dict[str, Any], dict[str, Any]]:
    alive = live_nodes(edges.wiring, edges.kept)
    nodes: dict[str, Any] = {INPUT: {"in_graph": True}, LOGITS: {"in_graph": True}}
    nodes |= {name: {"in_graph": bool(alive[site][unit])} for name, (site, unit) in peers.nodes().items()}
    shares = edges.scores.double() / peers.sharing[:, None]  # a double's share adds up to the very float32 again
    return nodes, _table(peers, shares[peers.ours], edges.kept[peers.ours])


def _of_nodes(circuit: Circuit, peers: Peers) -> tuple[dict[str, Any], dict[str, Any]]:
    """Nodes with their scores; every edge between two kept ones is in the graph."""
    places = peers.nodes()
    lacking = next(
        (site for site, _ in places.values() if site not in circuit.scores or site not in circuit.kept), None
    )
    if lacking is not None:
        raise UsageError(
            f"the circuit has neither edges nor a score at {lacking}: the format knows edges, or heads and MLPs",
            "find it with a method on edges, or with --kinds head,mlp",
        )
    nodes: dict[str, Any] = {INPUT: {"in_graph": True}, LOGITS: {"in_graph": True}}
    for name, (site, unit) in places.items():
        nodes[name] = {"in_graph": bool(circuit.kept[site][unit]), "score": float(circuit.scores[site][unit])}
    writing = torch.tensor([nodes[name]["in_graph"] for name in peers.writers])
    reading = torch.tensor([nodes[name.partition("<")[0]]["in_graph"] for name in peers.readers])
    return nodes, _table(peers, torch.zeros(peers.allowed.shape), reading[:, None] & writing)


def _table(peers: Peers, scores: Tensor, kept: Tensor) -> dict[str, Any]:
    values, truths = scores.tolist(), kept.tolist()
    return {
        peers.name(reader, writer): {"score": values[reader][writer], "in_graph": truths[reader][writer]}
        for reader, writer in peers.allowed.nonzero().tolist()
    }


def _check_cfg(document: Document, wiring: Wiring, d_model: int | None) -> None:
    model = {"n_layers": wiring.layers, "n_heads": wiring.heads, "parallel_attn_mlp": wiring.parallel}
    if d_model is not None:
        model["d_model"] = d_model
    wrong = [
        f"{name} {document.cfg[name]}, not {value}" for name, value in model.items() if document.cfg[name] != value
    ]
    if wrong:
        raise DataError(
            f"{document.where} is not of this model's graph: its cfg says {', '.join(wrong)}",
            "give the file's own model",
        )


def _read_nodes(document: Document, peers: Peers) -> tuple[dict[Site, Tensor], dict[Site, Tensor] | None]:
    """Which heads and MLPs are in the graph, and their scores if all of them have one."""
    places, ends = peers.nodes(), (INPUT, LOGITS)
    unknown = next((name for name in document.nodes if name not in places and name not in ends), None)
    if unknown is not None:
        raise DataError(f"{document.where}: this model has no node '{unknown}'", "give the file's own model")
    sites = dict.fromkeys(site for site, _ in places.values())
    units = {site: peers.wiring.heads if site.kind is Kind.HEAD else 1 for site in sites}
    kept = {site: torch.zeros(units[site], dtype=torch.bool) for site in sites}
    scores = {site: torch.zeros(units[site]) for site in sites}
    scored = 0
    for name, (site, unit) in places.items():
        if name not in document.nodes:
            raise DataError(f"{document.where}: node '{name}' is missing", "a circuit file lists every head and MLP")
        entry = document.nodes[name]
        if entry.score is not None and entry.score != entry.score:
            raise DataError(f"{document.where}: the score of node '{name}' is NaN", "compute the scores again")
        kept[site][unit] = entry.in_graph
        if entry.score is not None:
            scores[site][unit] = entry.score
            scored += 1
    if 0 < scored < len(places):
        raise DataError(f"{document.where}: only {scored} of {len(places)} heads and MLPs have a score")
    return kept, scores if scored else None


def _read_edges(document: Document, peers: Peers, merge: bool) -> Edges:
    """Their table of edges, and what it says of ours."""
    places = _places(document, peers)
    if len(places) < int(peers.allowed.sum()):
        left = int(peers.allowed.sum()) - len(places)
        log.warning("%s lacks %s of the graph's edges: they count as 0, not kept", document.where, f"{left:,}")
    entries = document.edges.values()
    rows, columns = torch.tensor(places, dtype=torch.long).view(-1, 2).unbind(1)
    theirs = torch.zeros(peers.allowed.shape, dtype=torch.bool)
    theirs[rows, columns] = torch.tensor([entry.in_graph for entry in entries], dtype=torch.bool)
    kept = _shared(document, peers, theirs, merge)
    if _memberships(document):
        return Edges(peers.wiring, kept.float(), kept)
    shares = torch.zeros(peers.allowed.shape, dtype=torch.float64)
    shares[rows, columns] = torch.tensor([entry.score for entry in entries], dtype=torch.float64)
    scores = torch.zeros(kept.shape, dtype=torch.float64).index_add_(0, peers.ours, shares)
    return Edges(peers.wiring, scores.float(), kept)


def _places(document: Document, peers: Peers) -> list[tuple[int, int]]:
    """Reader and writer of every edge of the file."""
    writers = {name: place for place, name in enumerate(peers.writers)}
    readers = {name: place for place, name in enumerate(peers.readers)}
    before = peers.allowed.sum(1).tolist()  # what a reader may read comes before it, so its edges are a prefix
    found = []
    for name, entry in document.edges.items():
        writer, _, reader = name.partition(ARROW)
        if writer not in writers or reader not in readers:
            bad = writer if writer not in writers else reader
            raise DataError(
                f"{document.where}: edge '{name}' is of no graph of this model: there is no '{bad}' "
                f"to {'write' if bad == writer else 'read'}",
                "edges are named a0.h0->m3 or input->a0.h0<q>; give the file's own model",
            )
        if writers[writer] >= before[readers[reader]]:
            raise DataError(f"{document.where}: there is no edge '{name}': {reader} is computed before {writer}")
        if entry.score is not None and entry.score != entry.score:
            raise DataError(f"{document.where}: the score of edge '{name}' is NaN", "compute the scores again")
        found.append((readers[reader], writers[writer]))
    return found


def _memberships(document: Document) -> bool:
    """Whether the file says only which edges are in the graph. Raises DataError when only some have scores."""
    lacking = [name for name, entry in document.edges.items() if entry.score is None]
    if lacking and len(lacking) < len(document.edges):
        raise DataError(f"{document.where}: edge '{lacking[0]}' has no field 'score', and others have one")
    return bool(lacking)


def _shared(document: Document, peers: Peers, theirs: Tensor, merge: bool) -> Bool[Tensor, "reader writer"]:
    """Our kept edges: those that all heads of a key/value group keep; with `merge`, any of them."""
    count = torch.zeros(peers.wiring.allowed.shape, dtype=torch.long).index_add_(0, peers.ours, theirs.long())
    split = (count > 0) & (count < peers.sharing[:, None])
    if split.any() and not merge:
        reader, writer = split.nonzero()[0].tolist()
        heads = [row for row in range(len(peers.readers)) if peers.ours[row] == reader]
        keep, close = ([peers.readers[row] for row in heads if theirs[row, writer] == side] for side in (True, False))
        raise DataError(
            f"{document.where}: heads that share one key or value disagree over {peers.writers[writer]}: it goes to "
            f"{', '.join(keep)} and not to {', '.join(close)} (so do {int(split.sum()) - 1} other edges)",
            "with --merge an edge is kept when any of its heads keeps it",
        )
    return count > 0
