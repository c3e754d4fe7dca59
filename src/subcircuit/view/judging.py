"""Logits as what is told of them: the likeliest tokens, and what the task asks."""

from jaxtyping import Float
from torch import Tensor

from subcircuit.metrics import logit_difference, probability
from subcircuit.subject import Subject
from subcircuit.view.prompting import Case
from subcircuit.view.questions import Judged, Token

__all__ = ["judged", "likeliest"]

Logits = Float[Tensor, "1 vocab"]


def judged(case: Case, logits: Logits) -> Judged:
    """By the answers that there are."""
    right, wrong = case.right, case.wrong
    return Judged(
        logit_difference=None if right is None or wrong is None else float(logit_difference(logits, right, wrong)),
        probability=None if right is None else float(probability(logits, right)),
    )


def likeliest(subject: Subject, by: Logits, logits: Logits, full: Logits, count: int) -> list[Token]:
    """The `count` tokens of the largest logits in `by`, with what the changed and the untouched model give them."""
    ids = by[0].topk(min(count, by.shape[1])).indices.tolist()
    now, before = (each.softmax(-1)[0] for each in (logits, full))
    return [
        Token(
            id=token,
            text=str(subject.tokenizer.decode([token])),
            logit=float(logits[0, token]),
            probability=float(now[token]),
            logit_before=float(full[0, token]),
            probability_before=float(before[token]),
        )
        for token in ids
    ]
