"""`extraction.json`: what was taken out of which model, how well it does, and what that saves."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from subcircuit.records import Origin
from subcircuit.scores import Scores

__all__ = ["Extraction", "Measured"]


class Record(BaseModel):
    """The root of what is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Measured(Record):
    """What a model takes. Times are medians over rounds in which the whole and the smaller model took turns."""

    parameters: int
    bytes: int = Field(description="of its weights in memory")
    flops: int = Field(description="per token, of its matrices: two for each of their weights")
    tokens_per_second: float = Field(description="one forward pass over 8 sequences of 64 tokens")
    latency_ms: float = Field(description="of one more token, one sequence, keys and values cached")


class Extraction(Record):
    """What `subcircuit extract` did."""

    schema_version: int = 1
    origin: Origin = Field(description="of the circuit")
    form: str = Field(description="compact or dense")
    reference: str = Field(description="what stands for nodes that are gone: mean or zero")
    bound: float | None = Field(description="the largest KL that was allowed, in nats")
    pairs: int = Field(description="prompt pairs of each split that the scores are of")
    rescored: Scores = Field(description="the circuit under this reference, on validation pairs")
    test: Scores = Field(description="the extracted model, on test pairs")
    difference: float = Field(description="largest difference of a logit from the ablated circuit's, validation pairs")
    layers: list[dict[str, Any]] = Field(description="heads, key/value heads and neurons that stay, layer by layer")
    before: Measured
    after: Measured

    @property
    def speedup(self) -> float:
        """Tokens per second, over those of the whole model."""
        return self.after.tokens_per_second / self.before.tokens_per_second

    @property
    def fewer_flops(self) -> float:
        """FLOPs of the whole model over those that remain: the speed-up that arithmetic alone would give."""
        return self.before.flops / self.after.flops
