"""What a mask did to the model's answers: every metric prompt by prompt, and means with bootstrap intervals."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from subcircuit import metrics
from subcircuit.tasks._base import Pairs

__all__ = ["Estimate", "PerPrompt", "Scores", "judge", "summarise"]

GAP = 1e-6  # below this the full and the empty circuit do the same, and faithfulness says nothing
PerPrompt = Mapping[str, Float[Tensor, " prompt"]]


class Estimate(BaseModel):
    """A mean over prompts and its 95% bootstrap interval."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: float
    low: float
    high: float


class Scores(BaseModel):
    """What a mask does to the model's answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kl: Estimate = Field(description="KL(full || circuit) in nats; 0 = the full model")
    faithfulness: Estimate | None = Field(description="1 = full model, 0 = empty circuit; null where they do the same")
    logit_difference: Estimate = Field(description="log odds of right against wrong answers")
    accuracy: Estimate = Field(description="share of prompts whose right answers beat the wrong ones")
    exact_match: Estimate = Field(description="share of prompts whose top token is the full model's")
    effect: Estimate | None = Field(
        default=None, description="of causal tracing: how far the search's metric moved; a ratio's logarithm, in nats"
    )


def judge(full: Float[Tensor, "prompt vocab"], logits: Float[Tensor, "prompt vocab"], pairs: Pairs) -> PerPrompt:
    """Every metric of one run, prompt by prompt."""
    found = {
        "kl": metrics.kl(full, logits),
        "logit_difference": metrics.logit_difference(logits, pairs.right, pairs.wrong),
        "accuracy": metrics.accuracy(logits, pairs.right, pairs.wrong),
        "exact_match": metrics.exact_match(logits, full),
    }
    return {name: value.cpu() for name, value in found.items()}


def summarise(found: PerPrompt, full: PerPrompt, empty: PerPrompt, seed: int, draws: int = 2000) -> Scores:
    n = len(found["kl"])
    rows = torch.randint(n, (draws, n), generator=torch.Generator().manual_seed(seed))
    estimates = {name: _estimate(values.mean(), values[rows].mean(1)) for name, values in found.items()}
    inside, top, bottom = (part["logit_difference"].double() for part in (found, full, empty))
    gap = float(top.mean() - bottom.mean())
    gaps = (top - bottom)[rows].mean(1)
    clear = gaps.abs() > GAP  # a draw of prompts on which both do the same says nothing
    resampled = (inside - bottom)[rows].mean(1)[clear] / gaps[clear]
    faithful = _estimate((inside - bottom).mean() / gap, resampled) if abs(gap) > GAP else None
    return Scores(faithfulness=faithful, **estimates)


def _estimate(value: Tensor, resampled: Tensor) -> Estimate:
    low, high = resampled.double().quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(mean=float(value), low=low, high=high)
