"""Outliers: the prompts on which a circuit is far from its own average."""

import torch
from pydantic import BaseModel, ConfigDict, Field

from subcircuit.errors import UnsupportedModel
from subcircuit.evaluation.panel import Panel
from subcircuit.evaluation.setting import Result, Setting

__all__ = ["Outlier", "Outliers", "outliers"]

FENCE = 1.5  # Tukey's: interquartile ranges above the upper quartile


class Outlier(BaseModel):
    """One prompt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    row: int
    text: str = Field(description="the clean prompt; empty where the model has no tokenizer")
    kl: float = Field(description="KL(full || circuit) in nats")
    circuit: float = Field(description="the circuit's logit difference")
    full: float = Field(description="the full model's logit difference")


class Outliers(Result):
    """Prompts whose KL is above the upper quartile by more than 1.5 interquartile ranges, the farthest first."""

    fence: float = Field(description="nats")
    count: int
    prompts: list[Outlier] = Field(description="at most as many as asked for")


def outliers(panel: Panel, most: int = 10) -> Outliers:
    """No further run."""
    kl = panel.chosen["kl"].double()
    low, high = kl.quantile(torch.tensor([0.25, 0.75], dtype=kl.dtype)).tolist()
    fence = high + FENCE * (high - low)
    rows = [row for row in kl.argsort(descending=True, stable=True).tolist() if kl[row] > fence]
    return Outliers(
        setting=Setting.of(panel.circuit, "outside the circuit"),
        fence=fence,
        count=len(rows),
        prompts=[
            Outlier(
                row=row,
                text=_text(panel, row),
                kl=float(kl[row]),
                circuit=float(panel.chosen["logit_difference"][row]),
                full=float(panel.whole["logit_difference"][row]),
            )
            for row in rows[:most]
        ],
    )


def _text(panel: Panel, row: int) -> str:
    try:
        tokenizer = panel.subject.tokenizer
    except UnsupportedModel:
        return ""
    clean = panel.pairs.clean
    return str(tokenizer.decode(clean.ids[row][clean.mask[row]], skip_special_tokens=True))
