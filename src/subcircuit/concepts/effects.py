"""What the removal of concepts did to answers: the concept beside its controls, and text by text."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from subcircuit.scores import Estimate

__all__ = ["Effect", "FaithfulnessReport", "SeedEffect", "TextEffect", "Where"]

Where = Literal["text", "salient", "judged"]
BLIND = ("random direction", "random code")  # controls that know nothing of the text


class Effect(BaseModel):
    """What the removal of one kind of direction does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    change: Estimate = Field(description="|P(answer) before - after|, the answer being the whole model's")
    flipped: Estimate = Field(description="share of texts whose answer is another one")
    accuracy: Estimate | None = Field(description="by the texts' labels; null where they have none")
    either: float | None = Field(description="of two labels: max(accuracy, 1 - accuracy); 0.5 = nothing is left")
    removed: float = Field(description="squared length of what is taken out, over that of the centred states, mean")
    ahead: Estimate | None = Field(default=None, description="of a control: the concept's change less this one's")
    probe: Estimate | None = Field(description="accuracy of a linear probe of whole states on what is left of them")
    retrained: Estimate | None = Field(description="of one that is taught on what is left; null without labels enough")


class SeedEffect(BaseModel):
    """The concepts of a codebook that was fitted with another seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int
    change: Estimate = Field(description="as of the codebook itself")
    ahead: Estimate = Field(description="of a random direction")


class TextEffect(BaseModel):
    """One text without its concept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str
    label: str = Field(description="empty where texts have none")
    answer: str = Field(description="the whole model's")
    word: str = Field(description="the most salient one")
    code: int = Field(description="its concept")
    before: float = Field(description="P(answer) of the whole model")
    after: float
    flipped: bool


class FaithfulnessReport(BaseModel):
    """The concept beside its controls."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    layer: int
    texts: int
    where: Where
    centred: bool
    matched: bool
    accuracy: Estimate | None = Field(description="of the whole model")
    concepts: int = Field(description="different concepts that salient words have")
    unassigned: float = Field(description="share of salient words beyond the codebook's threshold")
    concept: Effect
    controls: dict[str, Effect]
    probe: Estimate | None = Field(description="accuracy of a linear probe of whole states, by the texts' labels")
    exchange: dict[str, Estimate] = Field(
        description="by how much a text's concept, a random direction and its whole state, put into a text that is "
        "answered otherwise, raise P(its own answer) there; empty where the model gives one answer"
    )
    absent: dict[str, str] = Field(description="controls that cannot be had here, and why")
    rows: list[TextEffect] = Field(description="text by text, the concept removed")

    @property
    def verdict(self) -> str:
        """`evidence` where the concept is ahead of every control that knows nothing of the text, else `no evidence`."""
        return "no evidence" if self._equals() else "evidence"

    @property
    def reason(self) -> str:
        """Why, in a sentence."""
        equals, taken = self._equals(), " that takes out as much" if self.matched else ""
        if equals:
            return f"without its concept an answer moves no farther than without {' or '.join(equals)}{taken}"
        return f"without its concept an answer moves farther than without {' or '.join(self._blind())}{taken}"

    def _blind(self) -> list[str]:
        return [f"a {name}" for name in BLIND if name in self.controls]

    def _equals(self) -> list[str]:
        """The controls among them that the concept's interval does not clear."""
        ahead = {name: self.controls[name].ahead for name in BLIND if name in self.controls}
        return [f"a {name}" for name, each in ahead.items() if each is None or each.low <= 0]
