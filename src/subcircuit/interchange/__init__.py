"""Circuits in the formats of others: EAP-IG and MIB files, MIB submissions, GraphML."""

from subcircuit.interchange.eap_ig import Graph, read_eap_ig, write_eap_ig
from subcircuit.interchange.graphml import write_graphml
from subcircuit.interchange.importing import import_eap_ig
from subcircuit.interchange.mib import Problem, check_submission, write_submission

__all__ = [
    "Graph",
    "Problem",
    "check_submission",
    "import_eap_ig",
    "read_eap_ig",
    "write_eap_ig",
    "write_graphml",
    "write_submission",
]
