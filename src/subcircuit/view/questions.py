"""What can be asked of a live model, and what it answers. Imports no torch."""

from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "FILLS",
    "About",
    "Answer",
    "Asking",
    "Change",
    "Example",
    "Judged",
    "Part",
    "Question",
    "Source",
    "Text",
    "Token",
]

Source = Literal["zero", "corrupt", "mean", "prompt"]
FILLS: dict[Source, str] = {
    "zero": "zero",
    "corrupt": "its value in the counterfactual",
    "mean": "its mean over prompts of the task",
    "prompt": "its value in another prompt",
}
LONGEST = 20_000  # characters of a prompt; tokens are counted later
Text = Annotated[str, Field(max_length=LONGEST)]


class Part(BaseModel):
    """The root of all that goes over the wire."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Asking(Part):
    """The root of questions."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """What is changed, in a line."""


class Change(Part):
    """A set of nodes of which `amount` of their own value is left; the rest comes from `fill`.

    With zero, 0 removes the nodes, 0.5 halves and 2 doubles what they do.
    """

    nodes: list[Annotated[str, Field(max_length=40)]] = Field(max_length=5000, description="for example 3.head.7")
    amount: float = Field(0.0, ge=-100, le=100, allow_inf_nan=False, description="1 = untouched, 0 = replaced")
    fill: Source = "zero"

    def __str__(self) -> str:
        shown = ", ".join(self.nodes[:3]) + (f" and {len(self.nodes) - 3} more" if len(self.nodes) > 3 else "")
        return f"{shown} x {self.amount:g} ({self.fill})"


class Question(Asking):
    """A prompt, and what is to be changed in the model while it reads it. Changes act one after another."""

    clean: Text
    corrupt: Text = Field("", description="the counterfactual prompt, of as many tokens; may be empty")
    other: Text = Field("", description="the prompt that fill 'prompt' takes values from, of as many tokens")
    answers: list[Text] = Field(default_factory=list, max_length=500, description="right continuations, one token each")
    wrong_answers: list[Text] = Field(default_factory=list, max_length=500)
    start: Literal["model", "circuit"] = Field("model", description="circuit: all that it does not keep is off already")
    changes: list[Change] = Field(default_factory=list, max_length=50)
    positions: list[int] | None = Field(None, max_length=4096, description="token positions changed; null = all")
    top: int = Field(10, ge=1, le=100, description="tokens to answer with")

    @property
    def summary(self) -> str:
        """What is changed, in a line."""
        said = ["the circuit alone"] if self.start == "circuit" else []
        said += [str(change) for change in self.changes if change.nodes]
        where = f" at {', '.join(map(str, self.positions))}" if self.positions is not None else ""
        return ("; ".join(said) or "the model as it is") + where


class Token(Part):
    """One of the likeliest next tokens."""

    id: int
    text: str
    logit: float
    probability: float
    logit_before: float = Field(description="in the untouched model")
    probability_before: float


class Judged(Part):
    """What the task asks of logits. Null without answers."""

    logit_difference: float | None = Field(description="log odds of right against wrong answers")
    probability: float | None = Field(description="of the right answers together")


class Answer(Part):
    """The model's answer with the changes made."""

    tokens: list[str] = Field(description="the prompt's; a leading space is a dot")
    corrupt_tokens: list[str]
    at: int = Field(description="index of the judged token")
    full: Judged = Field(description="the untouched model")
    counterfactual: Judged | None = Field(description="the untouched model on the counterfactual, asked the same")
    changed: Judged
    kl: float = Field(description="KL(untouched || changed) in nats")
    top: list[Token] = Field(description="likeliest first")
    top_before: list[Token] = Field(description="of the untouched model")
    python: str = Field(description="code that gives the same numbers")
    milliseconds: float


class Example(Part):
    """A pair of the task's test split as text."""

    clean: str
    corrupt: str
    answers: list[str]
    wrong_answers: list[str]


class About(Part):
    """What a page needs to know of a session before it asks."""

    model: str
    folder: str
    layers: int
    units: dict[str, int] = Field(description="units of a site, by each kind that can be changed")
    fills: dict[str, str]
    examples: list[Example]
    no_examples: str = Field(description="why there are none")
    no_circuit: str = Field(description="why questions cannot start from the circuit; empty where they can")
    longest: int = Field(description="tokens that a prompt may have")
