"""What a graph explains: the likeliest logits of a prompt, or the difference between two sets of them.

A logit counts above the mean of all logits, since adding the same to all of them changes no probability. Caps and
scales that a model puts on its logits come after what is explained.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.errors import DataError, UnsupportedModel, UsageError
from subcircuit.subject import Subject

__all__ = ["Targets", "difference", "likeliest", "words"]


@dataclass(frozen=True)
class Targets:
    """Directions of the stream that is unembedded."""

    vectors: Float[Tensor, "target width"]
    offsets: Float[Tensor, " target"]  # of the unembedding's bias
    weights: Float[Tensor, " target"]  # where influence starts: the model's probability of each, or 1
    tokens: tuple[int, ...]  # vocabulary ids; past the vocabulary where there is no one token
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.tokens)


def likeliest(
    subject: Subject, logits: Float[Tensor, " vocab"], *, probability: float = 0.95, most: int = 10
) -> Targets:
    """The fewest tokens that have this probability together, `most` at most. Raises UsageError for other shares."""
    if not 0 < probability <= 1 or most < 1:
        raise UsageError(
            f"{most} logits of probability {probability} were asked for", "give at least 1, and a share up to 1"
        )
    best = logits.float().softmax(-1).topk(min(most, len(logits)))
    reached = int((best.values.cumsum(0) < probability - 1e-6).sum()) + 1
    tokens = best.indices[:reached]
    weight, bias = _unembedding(subject)
    return Targets(
        weight[tokens].float() - weight.float().mean(0),
        bias[tokens] - bias.mean(),
        best.values[:reached],
        tuple(tokens.tolist()),
        words(subject, tokens.tolist()),
    )


def difference(subject: Subject, right: Sequence[int], wrong: Sequence[int]) -> Targets:
    """The mean logit of some tokens less that of others. Raises DataError for a token on both sides, or none on one."""
    if not right or not wrong or set(right) & set(wrong):
        raise DataError(
            f"right tokens {list(right)} and wrong tokens {list(wrong)} tell nothing apart",
            "give one token or more on either side, and none on both",
        )
    weight, bias = _unembedding(subject)
    sides = [torch.tensor(list(side), device=weight.device) for side in (right, wrong)]
    vector, offset = (part[sides[0]].float().mean(0) - part[sides[1]].float().mean(0) for part in (weight, bias))
    label = " - ".join("/".join(words(subject, side)) for side in (right, wrong))
    return Targets(vector[None], offset[None], torch.ones(1, device=weight.device), (len(weight),), (label,))


def words(subject: Subject, tokens: Sequence[int]) -> tuple[str, ...]:
    """Tokens as text; of a subject without a tokenizer, as numbers."""
    try:
        return tuple(str(subject.tokenizer.decode([token])) for token in tokens)
    except UnsupportedModel:
        return tuple(f"<{token}>" for token in tokens)


def _unembedding(subject: Subject) -> tuple[Tensor, Tensor]:
    end = subject.model.get_output_embeddings()
    weight: Tensor = end.weight
    bias = getattr(end, "bias", None)
    return weight, torch.zeros(len(weight), device=weight.device) if bias is None else bias.float()
