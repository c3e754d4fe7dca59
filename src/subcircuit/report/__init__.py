"""A run folder, or several, as one HTML file that opens anywhere: no server, no network, no other file."""

from pathlib import Path

from subcircuit.errors import UsageError
from subcircuit.report.concepts import concept_payload, is_codebook
from subcircuit.report.graphs import graph_payload, is_graph
from subcircuit.report.page import page
from subcircuit.report.payload import Payload, payload

__all__ = ["Payload", "is_graph", "page", "payload", "report"]


def report(*folders: str, circuit: str | None = None) -> str:
    """The HTML of a report on these run folders, several of which are also compared, on one attribution graph, or on
    one codebook with the nodes of `circuit` marked.

    Raises DataError for a folder without a circuit or a graph, with broken files or with evidence of another circuit,
    and for models of different shapes; UsageError for a run that is given twice, and for a graph or a codebook beside
    another folder.
    """
    if any(is_graph(Path(folder)) for folder in folders):
        return page(*graph_payload(*folders))
    codebooks = [folder for folder in folders if is_codebook(Path(folder))]
    if codebooks and len(folders) == 1:
        return page(*concept_payload(codebooks[0], circuit))
    if codebooks or circuit:
        told = f"{codebooks[0]} holds a codebook" if codebooks else "--circuit is of codebooks"
        raise UsageError(told, "give the folder of one codebook, and the circuit by --circuit")
    return page(*payload(*folders))
