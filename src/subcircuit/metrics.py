"""Numbers that judge logits, one per prompt. Answers are token ids, a row per prompt, -1 where a row has fewer.

With several right or wrong answers a set's logit is the log-sum-exp of its members, so that a difference is the log
odds between the sets; with one answer each it is the field's usual logit difference.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.errors import DataError

__all__ = ["accuracy", "exact_match", "kl", "logit_difference", "probability", "together"]

Logits = Float[Tensor, "prompt vocab"]
Answers = Int[Tensor, "prompt answer"]
PerPrompt = Float[Tensor, " prompt"]


def logit_difference(logits: Logits, right: Answers, wrong: Answers) -> PerPrompt:
    """Log odds of the right answers against the wrong ones. Unbounded; 0 = undecided."""
    return together(logits, right) - together(logits, wrong)


def probability(logits: Logits, right: Answers) -> PerPrompt:
    """Probability of the right answers together, 0 to 1."""
    return together(logits.log_softmax(-1), right).exp()


def accuracy(logits: Logits, right: Answers, wrong: Answers) -> PerPrompt:
    """1 where the right answers are likelier than the wrong ones, else 0."""
    return (logit_difference(logits, right, wrong) > 0).float()


def exact_match(logits: Logits, full: Logits) -> PerPrompt:
    """1 where the top token is the full model's top token, else 0."""
    return (logits.argmax(-1) == full.argmax(-1)).float()


def kl(full: Logits, circuit: Logits) -> PerPrompt:
    """KL(full || circuit) over the whole vocabulary, in nats; 0 = the same distribution."""
    full, circuit = full.log_softmax(-1), circuit.log_softmax(-1)
    return torch.nn.functional.kl_div(circuit, full, reduction="none", log_target=True).sum(-1)


def together(logits: Logits, ids: Answers) -> PerPrompt:
    """The log-sum-exp of a set of answers. Raises DataError where there are none."""
    if not ids.shape[1]:
        raise DataError(
            "the answers of these prompts are several tokens, and what judges one position has none to look at",
            "causal-tracing judges them; for other methods give answers of one token",
        )
    ids = ids.to(logits.device)
    return logits.gather(1, ids.clamp(min=0)).masked_fill(ids < 0, -torch.inf).logsumexp(-1)
