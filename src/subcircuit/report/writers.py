"""The heads and neurons that write a concept, and which of them a circuit of the same model keeps."""

from pathlib import Path

from pydantic import Field

from subcircuit.circuit import Circuit
from subcircuit.concepts.codebook import About
from subcircuit.errors import DataError
from subcircuit.report.arrays import Part
from subcircuit.sites import PARENT, Kind, Node, Site

__all__ = ["CircuitAbout", "Writer", "about_circuit", "circuit_of", "writers"]


class Writer(Part):
    """A head or a neuron."""

    node: str
    share: float = Field(description="of how far the concept's states lie along its direction")
    kept: bool | None = Field(description="by the circuit; null where none is given")


class CircuitAbout(Part):
    """The circuit whose nodes are marked."""

    folder: str
    task: str
    method: str
    heads: int
    neurons: int


def writers(parts: dict[str, float], whole: float, circuit: Circuit | None) -> list[Writer]:
    """What each node writes, as a share of all that is written."""
    return [
        Writer(node=node, share=part / whole, kept=None if circuit is None else _keeps(circuit, Node.parse(node)))
        for node, part in parts.items()
    ]


def circuit_of(folder: Path, about: About) -> Circuit:
    """The circuit of a run. Raises DataError for one of another model than the codebook's."""
    circuit = Circuit.load(folder)
    if circuit.origin.revision != about.revision:
        raise DataError(
            f"the circuit in {folder} is of {circuit.origin.model} ({circuit.origin.revision}), the codebook of "
            f"{about.model} ({about.revision})",
            "give a circuit of the same model, or leave out --circuit",
        )
    return circuit


def about_circuit(folder: str, circuit: Circuit) -> CircuitAbout:
    """What the page says of it."""
    heads, neurons = (len(circuit.nodes(kind)) for kind in (Kind.HEAD, Kind.NEURON))
    origin = circuit.origin
    return CircuitAbout(folder=folder, task=origin.task, method=origin.method, heads=heads, neurons=neurons)


def _keeps(circuit: Circuit, node: Node) -> bool:
    """Whether no gate of the node, or of what it lies in, is closed; kinds without gates are open."""
    kinds = [node.site.kind]
    while kinds[-1] in PARENT:
        kinds.append(PARENT[kinds[-1]])
    gates = [circuit.kept[site] for kind in kinds if (site := Site(node.site.layer, kind)) in circuit.kept]
    return all(bool(gate[node.unit if len(gate) > 1 else 0]) for gate in gates)
