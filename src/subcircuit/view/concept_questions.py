"""What can be asked of a live model about the concepts of its states, and what it answers. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from subcircuit.view.questions import Asking, Part, Text, Token

__all__ = ["PLACES", "ConceptAbout", "ConceptAnswer", "ConceptQuestion", "Label", "Place", "ReadWord", "Without"]

Place = Literal["text", "salient", "judged"]
PLACES: dict[Place, str] = {
    "text": "from the text to the judged token",
    "salient": "at the most salient word",
    "judged": "at the judged token",
}


class ConceptQuestion(Asking):
    """A text, and the concept that is taken out of the model while it reads it."""

    text: Text
    code: int | None = Field(None, description="the concept; null = that of the most salient word")
    where: Place = "text"
    draws: int = Field(5, ge=1, le=50, description="of random directions, the control")
    top: int = Field(10, ge=1, le=100, description="tokens to answer with")

    @property
    def summary(self) -> str:
        """What is taken out, in a line."""
        what = "the most salient word's concept" if self.code is None else f"concept {self.code}"
        return f"without {what} {PLACES[self.where]}"


class ReadWord(Part):
    """A word of the text, or a token where the codebook is of tokens."""

    word: str
    score: float = Field(description="its share in the log odds of the answer; negative = against it")
    code: int
    distance: float
    assigned: bool = Field(description="no farther from its code than the codebook's threshold")


class Without(Part):
    """What the model says with directions taken out of its states; means over draws."""

    probability: float = Field(description="of what the whole model says")
    change: float = Field(description="of that probability, by magnitude")
    flipped: float = Field(description="share of draws with another answer")
    removed: float = Field(description="squared length of what is taken out, over that of the centred states")
    shares: dict[str, float] = Field(description="of each label; empty where the codebook has none")


class ConceptAnswer(Part):
    """What the model answers to a text, and what it answers without a concept."""

    answer: str = Field(description="a label, or the model's next token where there are none")
    probability: float
    shares: dict[str, float] = Field(description="of each label; empty where the codebook has none")
    words: list[ReadWord] = Field(description="in the order of the text")
    salient: int = Field(description="index of the word with the largest score, by magnitude")
    code: int = Field(description="the concept that is taken out")
    now: str = Field(description="the answer without it")
    concept: Without
    random: Without = Field(description="random directions that take out as much")
    top: list[Token] = Field(description="likeliest without the concept first")
    milliseconds: float


class Label(Part):
    """What somebody calls a concept."""

    label: Annotated[str, Field(max_length=200)] = Field(description="empty takes the label away")


class ConceptAbout(Part):
    """What a page needs to know of a session before it asks."""

    model: str
    places: dict[Place, str]
    examples: list[str] = Field(description="texts")
    template: str
    longest: int = Field(description="tokens of a text; what follows them is cut")
