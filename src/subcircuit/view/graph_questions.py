"""What can be asked of a live model about the features of its attribution graph, and what it answers. No torch here."""

from typing import Annotated, Literal

from pydantic import Field

from subcircuit.view.questions import Asking, Part, Text, Token

__all__ = ["FILLS", "Fill", "GraphAbout", "GraphAnswer", "GraphQuestion", "TargetChange"]

Fill = Literal["zero", "counterfactual", "mean"]
FILLS: dict[Fill, str] = {
    "zero": "zero",
    "counterfactual": "its value in another prompt",
    "mean": "its mean over texts",
}


class GraphQuestion(Asking):
    """Features of which `amount` of their own value is left in a run of the graph's prompt; the rest is from `fill`."""

    features: list[Annotated[str, Field(max_length=40)]] = Field(max_length=5000, description="for example 3.17@5")
    amount: float = Field(0.0, ge=-100, le=100, allow_inf_nan=False, description="1 = untouched, 0 = switched off")
    fill: Fill = "zero"
    counterfactual: Text = Field("", description="of fill counterfactual: a prompt of as many tokens as the graph's")
    draws: int = Field(5, ge=0, le=50, description="of as many random active features, the control")
    top: int = Field(10, ge=1, le=100, description="tokens to answer with")

    @property
    def summary(self) -> str:
        """What is changed, in a line."""
        if not self.features:
            return "the model as it is"
        shown = ", ".join(self.features[:3])
        more = f" and {len(self.features) - 3} more" if len(self.features) > 3 else ""
        return f"{shown}{more} x {self.amount:g} ({self.fill})"


class TargetChange(Part):
    """What becomes of one target. Logits are above the mean of all logits, as in the graph; or a logit difference."""

    label: str
    before: float
    after: float
    direct: float = Field(description="the change that the graph predicts by edges from the features to the target")
    through: float = Field(description="the same by way of all other features too")
    random: list[float] = Field(description="the change for each draw of as many random features")


class GraphAnswer(Part):
    """The model's answer with the features changed."""

    features: int = Field(description="that were changed")
    kl: float = Field(description="KL(untouched || changed) in nats")
    random: int = Field(description="random features of each draw; fewer where the graph has no more that are left")
    random_kl: list[float] = Field(description="the same for each draw")
    targets: list[TargetChange]
    top: list[Token] = Field(description="likeliest first")
    top_before: list[Token] = Field(description="of the untouched model")
    milliseconds: float


class GraphAbout(Part):
    """What a page needs to know of a session before it asks."""

    model: str
    transcoders: str
    prompt: str
    fills: dict[str, str]
    difference: bool = Field(description="the target is a logit difference")
