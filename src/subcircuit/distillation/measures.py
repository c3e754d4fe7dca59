"""How near a student is to its teacher, on text that neither of them is taught on.

Pass@k is the unbiased estimator of Chen et al. 2021 (arXiv 2107.03374): of n answers with c right ones, one minus the
chance that k drawn without replacement hold none. Two models are compared by resampling problems in pairs.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from transformers import PreTrainedModel

from subcircuit.distillation.losses import entropy
from subcircuit.distillation.reading import chunks, read, unembed
from subcircuit.distillation.speaking import Written
from subcircuit.distillation.update import CHUNK
from subcircuit.errors import UsageError
from subcircuit.scores import Estimate

__all__ = ["Closeness", "by_text", "closeness", "diversity", "paired", "pass_at_k", "resampled"]

ENDS = torch.tensor([0.025, 0.975], dtype=torch.float64)


class Closeness(BaseModel):
    """A student beside its teacher on one text; entropies and KL in nats per token, intervals over texts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: int
    perplexity: float = Field(description="the student's, of the text")
    teacher_perplexity: float
    kl: Estimate = Field(description="KL(teacher || student)")
    reverse_kl: Estimate = Field(description="KL(student || teacher)")
    agreement: float = Field(description="share of tokens at which both have the same top token")
    high: float = Field(description="share of tokens at which the teacher's entropy is above tau")
    kl_high: float | None = Field(description="KL(teacher || student) at those; null where there are none")
    kl_low: float | None = Field(description="at the others")
    entropy: float = Field(description="the student's")
    teacher_entropy: float


@torch.no_grad()
def closeness(
    student: PreTrainedModel, teacher: PreTrainedModel, text: Written, *, tau: float = 0.8, rows: int = 8, seed: int = 0
) -> Closeness:
    """Compare two models on the judged tokens of a text, token by token."""
    every = _token_by_token(student, teacher, text, rows)
    high = every["teacher entropy"] > tau

    def part_of(truth: Tensor) -> float | None:
        return float(every["kl"][truth].mean()) if truth.any() else None

    return Closeness(
        tokens=len(high),
        perplexity=math.exp(-float(every["student log-probability"].mean())),
        teacher_perplexity=math.exp(-float(every["teacher log-probability"].mean())),
        kl=_over_texts(every["kl"], text, seed),
        reverse_kl=_over_texts(every["reverse"], text, seed),
        agreement=float(every["agree"].mean()),
        high=float(high.double().mean()),
        kl_high=part_of(high),
        kl_low=part_of(~high),
        entropy=float(every["student entropy"].mean()),
        teacher_entropy=float(every["teacher entropy"].mean()),
    )


@torch.no_grad()
def by_text(
    student: PreTrainedModel, teacher: PreTrainedModel, text: Written, *, rows: int = 8
) -> Float[Tensor, " text"]:
    """KL(teacher || student), nats per token, of each text: what `paired` compares two students by."""
    sums, sizes = _sums(_token_by_token(student, teacher, text, rows)["kl"], text)
    return sums / sizes


def diversity(text: Written, n: int = 2) -> float:
    """Different n-grams over all n-grams of the responses: 1 = nothing is said twice."""
    grams = []
    for ids, mask in zip(text.ids, text.response, strict=True):
        answer = ids[mask].tolist()
        grams += [tuple(answer[place : place + n]) for place in range(len(answer) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def pass_at_k(right: Sequence[int], answers: int, k: int) -> Float[Tensor, " problem"]:
    """For each problem the chance that at least one of k answers is right, from `right` of its `answers`.

    Raises UsageError for a k above the number of answers.
    """
    if not 1 <= k <= answers or any(not 0 <= count <= answers for count in right):
        raise UsageError(f"pass@{k} from {answers} answers", "draw at least k answers of each problem")
    whole = math.comb(answers, k)
    return torch.tensor([1 - math.comb(answers - count, k) / whole for count in right], dtype=torch.float64)


def paired(
    first: Float[Tensor, " problem"], second: Float[Tensor, " problem"], *, seed: int = 0, draws: int = 2000
) -> Estimate:
    """The mean of `first - second` over problems and its 95% interval; both are resampled by the same problems."""
    if first.shape != second.shape or not len(first):
        raise UsageError(f"{len(first)} problems against {len(second)}", "compare on the same problems")
    return resampled(first - second, seed=seed, draws=draws)


def resampled(values: Float[Tensor, " problem"], *, seed: int = 0, draws: int = 2000) -> Estimate:
    """A mean over problems and its 95% bootstrap interval."""
    values = values.double()
    rows = torch.randint(len(values), (draws, len(values)), generator=torch.Generator().manual_seed(seed))
    low, high = values[rows].mean(1).quantile(ENDS).tolist()
    return Estimate(mean=float(values.mean()), low=low, high=high)


def _token_by_token(
    student: PreTrainedModel, teacher: PreTrainedModel, text: Written, rows: int
) -> dict[str, Float[Tensor, " token"]]:
    """Everything that is compared, at each judged token."""
    found: dict[str, list[Tensor]] = {}
    for start in range(0, len(text), rows):
        part = text[slice(start, start + rows)]
        own, theirs = read(student, part), read(teacher, part)
        for piece in chunks(len(own), CHUNK):
            values = _compared(student, teacher, own.states[piece], theirs.states[piece], own.tokens[piece])
            for name, value in values.items():
                found.setdefault(name, []).append(value)
    return {name: torch.cat(values).double().cpu() for name, values in found.items()}


def _compared(
    student: PreTrainedModel, teacher: PreTrainedModel, own: Tensor, theirs: Tensor, tokens: Tensor
) -> dict[str, Tensor]:
    p, q = unembed(student, own).log_softmax(-1), unembed(teacher, theirs).log_softmax(-1)
    return {
        "kl": (q.exp() * (q - p)).sum(-1),
        "reverse": (p.exp() * (p - q)).sum(-1),
        "agree": (p.argmax(-1) == q.argmax(-1)).float(),
        "student entropy": entropy(p),
        "teacher entropy": entropy(q),
        "student log-probability": p.gather(-1, tokens[:, None])[:, 0],
        "teacher log-probability": q.gather(-1, tokens[:, None])[:, 0],
    }


def _over_texts(values: Tensor, text: Written, seed: int, draws: int = 2000) -> Estimate:
    """A mean over tokens; texts are resampled, since tokens of one text are not independent."""
    sums, sizes = _sums(values, text)
    rows = torch.randint(len(text), (draws, len(text)), generator=torch.Generator().manual_seed(seed))
    low, high = (sums[rows].sum(1) / sizes[rows].sum(1)).quantile(ENDS).tolist()
    return Estimate(mean=float(values.mean()), low=low, high=high)


def _sums(values: Float[Tensor, " token"], text: Written) -> tuple[Float[Tensor, " text"], Float[Tensor, " text"]]:
    """Of each text: its values together, and how many there are."""
    owner = text.response[:, 1:].nonzero()[:, 0]  # whose token it is
    blank = torch.zeros(len(text), dtype=torch.float64)
    return blank.index_add(0, owner, values), blank.index_add(0, owner, torch.ones_like(values))
