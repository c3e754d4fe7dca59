"""`score.json`: what the removal of a codebook's concepts did."""

from typing import ClassVar

from pydantic import Field

from subcircuit.concepts.beside import Measured
from subcircuit.concepts.effects import FaithfulnessReport, SeedEffect

__all__ = ["ScoreFile"]


class ScoreFile(Measured):
    """The last measurement on a codebook."""

    FILE: ClassVar[str] = "score.json"
    CURE: ClassVar[str] = "score the codebook again"

    faithfulness: FaithfulnessReport
    stability: list[float] | None = Field(description="adjusted Rand index of every two seeds; null unless asked for")
    seeds: list[SeedEffect] | None = Field(description="what the concepts of each seed's codebook do")
