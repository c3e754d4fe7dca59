"""`subcircuit export --format neuronpedia`: what is left of a graph once it is pruned."""

import re
from pathlib import Path

from rich.markup import escape

from subcircuit.cli._exchanged import Exported
from subcircuit.cli._shell import Screen
from subcircuit.graphs.records import GraphFile
from subcircuit.records import Size

__all__ = ["export_graph"]

OTHER = re.compile(r"[^A-Za-z0-9_.-]+")


def export_graph(
    folder: Path, out: Path, nodes: float, edges: float, slug: str, scan: str, supernodes: int, screen: Screen
) -> None:
    """Prune a folder's graph, group its features and write it. Names that are not given are made of the folder's."""
    file = GraphFile.read(folder)
    from subcircuit.graphs.coarsening import supernodes_of
    from subcircuit.graphs.files import load_graph
    from subcircuit.graphs.influence import prune
    from subcircuit.graphs.neuronpedia import document, write_document

    graph = load_graph(folder)
    pruned = prune(graph, nodes=nodes, edges=edges)
    made = document(
        graph,
        pruned,
        slug=slug or OTHER.sub("-", folder.resolve().name),
        scan=scan or file.scan or OTHER.sub("-", Path(file.model).name),
        supernodes=supernodes_of(graph, pruned, supernodes) if supernodes else (),
        settings={
            "node_threshold": nodes,
            "generation_settings": file.settings,
            "pruning_settings": {"node_threshold": nodes, "edge_threshold": edges},
        },
    )
    write_document(made, out)
    sizes = {
        "nodes": Size(kept=len(made.nodes), total=len(graph)),
        "edges": Size(kept=len(made.links), total=int((graph.adjacency != 0).sum())),
    }
    if screen.json:
        screen.emit(Exported(folder=str(folder), format="neuronpedia", file=str(out), sizes=sizes))
        return
    told = ", ".join(f"{size.kept} of {size.total} {what}" for what, size in sizes.items())
    screen.out.print(f"wrote {escape(str(out))}: {told}", soft_wrap=True)
