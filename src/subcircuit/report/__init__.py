"""A run folder, or several, as one HTML file that opens anywhere: no server, no network, no other file."""

from subcircuit.report.page import page
from subcircuit.report.payload import Payload, payload

__all__ = ["Payload", "page", "payload", "report"]


def report(*folders: str) -> str:
    """The HTML of a report on these run folders; several of them are also compared.

    Raises DataError for a folder without a circuit, with broken files or with evidence of another circuit, and for
    models of different shapes; UsageError for a run that is given twice.
    """
    return page(*payload(*folders))
