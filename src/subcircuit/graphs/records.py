"""`graph.json`: what a graph is of, and how much it explains. Imports no torch."""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from subcircuit.files import load_record
from subcircuit.records import versions

__all__ = ["GRAPH", "GraphFile", "TargetFile"]

SCHEMA = 1
GRAPH = "graph.json"


class TargetFile(BaseModel):
    """What is explained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    token: int = Field(description="vocabulary id; the size of the vocabulary where it is no single token")
    label: str
    weight: float = Field(description="the model's probability of it; 1 for a logit difference")
    logit: float = Field(description="above the mean logit; or the logit difference")


class GraphFile(BaseModel):
    """A graph without its tensors, which are in `graph.safetensors`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA
    model: str
    revision: str = Field("", description="commit or sha256 of the weights")
    scan: str = Field("", description="what Neuronpedia calls the model")
    prompt: str
    tokens: list[int]
    words: list[str] = Field(description="the tokens as text")
    layers: int
    targets: list[TargetFile]
    features: int = Field(description="features that are nodes")
    active: int = Field(description="features that were active, nodes or not")
    replacement: float = Field(description="of the influence that starts at a token or an error, the tokens' share")
    completeness: float = Field(description="share of inputs that are no errors, weighted by influence")
    settings: dict[str, Any] = Field(default_factory=dict)
    transcoders: dict[str, str] = Field(default_factory=dict, description="where they are, read and write")
    seconds: float = Field(0.0, description="wall-clock time, the model's loading left out")
    versions: dict[str, str] = Field(default_factory=versions)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """A folder's `graph.json`. Raises DataError when it is missing, broken or of another schema version."""
        maker = "give a folder that `subcircuit graph` wrote"
        return load_record(cls, folder / GRAPH, "a graph", missing=maker, broken="make the graph again")
