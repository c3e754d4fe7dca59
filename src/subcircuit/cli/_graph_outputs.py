"""What `graph` prints with `--json`, as a model."""

from pydantic import Field

from subcircuit.cli._outputs import Output
from subcircuit.graphs.records import GraphFile

__all__ = ["Drawn", "Influential"]


class Influential(Output):
    """A feature that reaches the targets."""

    node: str = Field(description="layer.number@position")
    influence: float
    activation: float


class Drawn(Output):
    """`subcircuit graph`."""

    folder: str
    graph: GraphFile
    influential: list[Influential]
