"""What the student is taught at one token. Entropy-aware on-policy distillation (arXiv 2603.07079):

    L_t = L_t^OPD + alpha g(H_t) L_t^FKL

    L_t^OPD = -min(r A, clip(r, 1 - eps, 1 + eps) A),  r = pi(x_t) / pi_old(x_t),  A = log pi_T(x_t) - log pi_old(x_t)
    L_t^FKL = sum over x in top-k of pi_T:  q(x) log(q(x) / pi(x))
    H_t     = entropy of pi_T over the whole vocabulary, in nats;  g = 1[H_t > tau]

Departures, by option: `target` of the forward KL is "tail" by default, pi_T on its top k with one bucket for the rest
(at pi = pi_T its gradient is zero; that of the paper's renormalised "topk" is pi - q), or "full"; the gate may be
soft, a quantile or none; the reverse KL may be over the full vocabulary. Gate and forward KL act on the same position;
with `lag1` the gate of a position weighs the forward KL of the next one, as in the code released with the paper.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.errors import UnknownName, UsageError

__all__ = ["Loss", "Terms", "entropy", "forward_kl", "gates", "reverse_kl", "terms"]

Kind = Literal["eopd", "forward-kl", "jsd", "supervised"]
Gate = Literal["hard", "soft", "quantile", "none"]
Target = Literal["tail", "topk", "full"]
Reverse = Literal["sampled", "full"]
Norm = Literal["all", "gated"]
Logits = Float[Tensor, "token vocab"]
PerToken = Float[Tensor, " token"]
TINY = 1e-12  # keeps the logarithm of an empty tail finite


@dataclass(frozen=True)
class Loss:
    """The options of the loss. Raises UnknownName or UsageError for values that are none."""

    objective: Annotated[Kind, "eopd, or a baseline: forward-kl, jsd (GKD's), supervised"] = "eopd"
    tau: Annotated[float, "teacher entropy above which forward KL joins, nats; inf: plain on-policy distillation"] = 0.8
    alpha: Annotated[float, "weight of the forward KL"] = 1.0
    top_k: Annotated[int, "tokens of the teacher that the forward KL looks at"] = 16
    clip: Annotated[float, "the ratio of new to old probability is clipped to 1 +- this"] = 0.2
    gate: Annotated[Gate, "hard: above tau; soft: a sigmoid at tau; quantile: the highest of a batch; none: all"] = (
        "hard"
    )
    softness: Annotated[float, "width of the soft gate, nats"] = 0.1
    quantile: Annotated[float, "share of tokens that the quantile gate leaves out"] = 0.8
    target: Annotated[Target, "of the forward KL: tail (a bucket for the rest), topk (the paper's), full"] = "tail"
    reverse: Annotated[Reverse, "reverse KL at the sampled token (the paper's), or full: over the vocabulary"] = (
        "sampled"
    )
    norm: Annotated[Norm, "the forward KL is divided by all tokens (the paper), or by the gated ones"] = "all"
    lag1: Annotated[bool, "weigh the next position's forward KL, as the released code does"] = False
    beta: Annotated[float, "of jsd: 0 = forward KL, 1 = reverse KL"] = 0.5

    def __post_init__(self) -> None:
        choices = {"objective": Kind, "gate": Gate, "target": Target, "reverse": Reverse, "norm": Norm}
        for name, kind in choices.items():
            if getattr(self, name) not in get_args(kind):
                raise UnknownName(name, getattr(self, name), get_args(kind))
        shares = {"quantile": self.quantile, "beta": self.beta, "clip": self.clip}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise UsageError(f"{name} is {value}", "give a number from 0 to 1")
        if self.top_k < 1 or not self.softness > 0 or not self.alpha >= 0 or math.isnan(self.tau):
            raise UsageError("top-k, softness and alpha are positive numbers, tau is a number of nats")

    @property
    def looks_back(self) -> bool:
        """Whether it asks how likely each token was when it was written."""
        return self.objective == "eopd" and self.reverse == "sampled"


@dataclass(frozen=True)
class Terms:
    """A chunk of tokens: what is minimised, token by token, and what is worth knowing."""

    main: PerToken  # divided by all tokens
    forward: PerToken  # weighed by the gate; divided by all or by the gated tokens
    facts: dict[str, Tensor]  # sums over the chunk


def terms(
    loss: Loss,
    student: Logits,
    teacher: Logits,
    token: Int[Tensor, " token"],
    old: PerToken | None,
    gate: PerToken,
    after: tuple[Logits, Logits] | None = None,
) -> Terms:
    """The loss of some tokens from the logits that predict them.

    `old`: the log-probability with which the student chose each token; None where it still has the same weights.
    `after`: student's and teacher's logits one position on, for `lag1`.
    """
    own, judge = student.log_softmax(-1), teacher.log_softmax(-1)
    facts: dict[str, Tensor] = {}
    forward = torch.zeros_like(gate)
    if loss.objective == "supervised":
        main = -_at(own, token)
    elif loss.objective == "forward-kl":
        main = _full(judge, own)
    elif loss.objective == "jsd":
        main = _jsd(own, judge, loss.beta)
    else:
        main = _full(own, judge) if loss.reverse == "full" else _clipped(own, judge, token, old, loss.clip, facts)
        if loss.alpha and gate.any():
            pair = tuple(each.log_softmax(-1) for each in after) if after is not None else (own, judge)
            forward = loss.alpha * gate * forward_kl(pair[0], pair[1], loss.target, loss.top_k)
    with torch.no_grad():
        facts |= _facts(own.detach(), judge, token, gate, loss.top_k)
    return Terms(main, forward, facts)


def entropy(logits: Logits) -> PerToken:
    """In nats, over the whole vocabulary: the log-sum-exp less the mean logit."""
    total = logits.logsumexp(-1)
    return total - ((logits - total[:, None]).exp() * logits).sum(-1)


def gates(loss: Loss, entropies: PerToken) -> PerToken:
    """How much of the forward KL each token gets. `entropies` are of all tokens that one update learns from."""
    if loss.objective != "eopd" or loss.gate == "hard":
        return (entropies > loss.tau).to(entropies.dtype) if loss.objective == "eopd" else torch.zeros_like(entropies)
    if loss.gate == "soft":
        return torch.sigmoid((entropies - loss.tau) / loss.softness)
    if loss.gate == "none":
        return torch.ones_like(entropies)
    ordered = entropies.sort().values
    return (entropies > ordered[int(loss.quantile * (len(ordered) - 1))]).to(entropies.dtype)


def forward_kl(student: Logits, teacher: Logits, target: Target, top_k: int) -> PerToken:
    """KL(teacher || student) from log-probabilities, of what the target leaves of the teacher."""
    if target == "full":
        return _full(teacher, student)
    best, places = teacher.topk(min(top_k, teacher.shape[-1]), -1)
    own = student.gather(-1, places)
    if target == "topk":
        best = best - best.logsumexp(-1, keepdim=True)
    inside = (best.exp() * (best - own)).sum(-1)
    if target == "topk" or best.shape[-1] == teacher.shape[-1]:
        return inside
    rest, own_rest = _rest(best), _rest(own)
    return inside + rest.exp() * (rest - own_rest)


def reverse_kl(student: Logits, teacher: Logits) -> PerToken:
    """KL(student || teacher) from log-probabilities."""
    return _full(student, teacher)


def _clipped(
    own: Logits,
    judge: Logits,
    token: Int[Tensor, " token"],
    old: PerToken | None,
    clip: float,
    facts: dict[str, Tensor],
) -> PerToken:
    new = _at(own, token)
    before = new.detach() if old is None else old
    advantage = _at(judge, token) - before
    ratio = (new - before).exp()
    plain, clipped = ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage
    facts["clipped"] = (clipped < plain).sum().detach()
    return -torch.minimum(plain, clipped)


def _jsd(own: Logits, judge: Logits, beta: float) -> PerToken:
    """GKD's: beta KL(T || M) + (1 - beta) KL(S || M), M = beta T + (1 - beta) S; its ends are the two plain KLs."""
    if beta in (0, 1):
        return _full(judge, own) if beta == 0 else _full(own, judge)
    weights = own.new_tensor([beta, 1 - beta]).log()
    mixed = torch.logsumexp(torch.stack([judge + weights[0], own + weights[1]]), 0)
    return beta * _full(judge, mixed) + (1 - beta) * _full(own, mixed)


def _full(first: Logits, second: Logits) -> PerToken:
    return (first.exp() * (first - second)).sum(-1)


def _rest(best: Float[Tensor, "token k"]) -> Float[Tensor, "token"]:
    """Log of the probability that is left beside these."""
    return (1 - best.exp().sum(-1)).clamp(min=TINY).log()


def _at(logits: Logits, token: Int[Tensor, " token"]) -> PerToken:
    return logits.gather(-1, token[:, None])[:, 0]


def _facts(own: Logits, judge: Logits, token: Int[Tensor, " token"], gate: PerToken, top_k: int) -> dict[str, Tensor]:
    kl, entropies = _full(judge, own), -(judge.exp() * judge).sum(-1)
    return {
        "tokens": gate.new_tensor(len(gate)),
        "gate": gate.sum(),
        "teacher entropy": entropies.sum(),
        "student entropy, gated": -(gate * (own.exp() * own).sum(-1)).sum(),
        "forward KL": kl.sum(),
        "forward KL, gated": (gate * kl).sum(),
        "reverse KL": _full(own, judge).sum(),
        "top-k mass": judge.topk(min(top_k, judge.shape[-1]), -1).values.exp().sum(),
        "teacher log-probability": _at(judge, token).sum(),
    }
