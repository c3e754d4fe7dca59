"""An attribution graph of a tiny model in files, its transcoders, and the session that answers questions about it."""

from dataclasses import asdict, dataclass
from pathlib import Path

from subcircuit.features.transcoders import Transcoders, write_transcoders
from subcircuit.graphs.attribution import Attribution
from subcircuit.graphs.files import save_graph
from subcircuit.graphs.graph import Graph
from subcircuit.graphs.records import GraphFile
from subcircuit.loading import load
from subcircuit.subject import Subject
from subcircuit.view.graphs import GraphSession
from tiny_folder import study
from tiny_transcoders import random_transcoders

__all__ = ["LiveGraph", "live_graph"]


@dataclass(frozen=True)
class LiveGraph:
    """A graph's folder, and a session that has it open."""

    folder: Path
    graph: Graph
    file: GraphFile
    subject: Subject
    transcoders: Transcoders
    session: GraphSession
    other: str  # a prompt of as many tokens

    @property
    def names(self) -> list[str]:
        """Of its features."""
        return [self.graph.name(node) for node in range(len(self.graph.features))]


def live_graph(folder: Path) -> LiveGraph:
    """Of the first prompt of a study, with random transcoders."""
    files = study(folder)
    subject, row = load(str(files.model)), files.rows()[0]
    transcoders, place, settings = random_transcoders(subject), folder / "transcoders", Attribution(max_logits=3)
    write_transcoders(transcoders, place)
    graph = settings.graph(subject, transcoders, row["clean"])
    told = {"folder": str(place), "reads": transcoders.reads, "writes": transcoders.writes, "model": transcoders.model}
    file = save_graph(graph, folder / "graph", revision=subject.revision, settings=asdict(settings), transcoders=told)
    session = GraphSession(subject, transcoders, file, graph)
    return LiveGraph(folder / "graph", graph, file, subject, transcoders, session, row["corrupt"])
