"""Which words an answer rests on at a layer: layer integrated gradients (Sundararajan et al. 2017).

    s_p = sum over channels of (h_p - b) * mean over a in (0, 1) of dF / dh_p at b + a (h - b)

`h` are the text's states that enter the layer, `b` the mean of all states; the template keeps its own. `F` is the log
odds of the model's answer against the other labels, without labels the log probability of its next token. The scores of
a text sum to F(h) - F(b), the more exactly the more steps. Departs from LACOAT and CLVQ-VAE in the baseline, which
there is a padding token, and in that a word's score is the sum over its tokens.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.concepts.framing import Framed
from subcircuit.errors import NumericalError
from subcircuit.sites import Kind, Site
from subcircuit.subject import Edit, Subject

__all__ = ["answer_odds", "salience", "word_scores"]


def answer_odds(
    logits: Float[Tensor, "prompt vocab"], answers: Int[Tensor, " label"], said: Int[Tensor, " prompt"]
) -> Float[Tensor, " prompt"]:
    """Log odds of what the model said: a label against the others or, without labels, its token's log probability."""
    if not len(answers):
        return logits.log_softmax(-1).gather(1, said[:, None])[:, 0]
    of_labels = logits[:, answers.to(logits.device)].log_softmax(-1).gather(1, said[:, None])[:, 0]
    return of_labels - torch.log(-torch.expm1(of_labels.clamp(max=-1e-7)))


def salience(
    subject: Subject,
    framed: Framed,
    layer: int,
    states: Float[Tensor, "prompt pos width"],
    mean: Float[Tensor, " width"],
    answers: Int[Tensor, " label"],
    said: Int[Tensor, " prompt"],
    steps: int,
) -> Float[Tensor, "prompt pos"]:
    """A score for each token; 0 for the template's. Raises NumericalError for a gradient that is not finite."""
    own = framed.own.to(states.device)[:, :, None]
    base = mean.to(states.device, states.dtype).where(own, states)
    total = torch.zeros_like(states)
    for step in range(steps):
        point = (base + (step + 0.5) / steps * (states - base)).requires_grad_()
        with subject.editing({Site(layer, Kind.RESID): _put(point)}):
            odds = answer_odds(subject.logits(framed.prompts), answers, said)
        total += torch.autograd.grad(odds.sum(), point)[0]
    scores = ((states - base) * total / steps).sum(-1)
    if not scores.isfinite().all():
        raise NumericalError(f"the gradient at layer {layer} is not finite", "use float32 weights")
    return scores


def _put(states: Float[Tensor, "prompt pos width"]) -> Edit:
    return lambda act: states[:, :, None]


def word_scores(framed: Framed, scores: Float[Tensor, "prompt pos"]) -> list[Float[Tensor, " word"]]:
    """The sum over the tokens of each word, text by text."""
    return [
        torch.stack([row[word.first : word.last + 1].sum() for word in words])
        for row, words in zip(scores, framed.words, strict=True)
    ]
