"""A classifier of texts without what it should not go by: features that carry a spurious attribute are switched off.

The classifier is a linear probe on a model's activations, averaged over a text. Features of a dictionary are ranked by
what they say of the label (`circuits.rank`), looked at, and those that fire on words of the spurious attribute are
ablated in the model, as in SHIFT (Marks et al. 2025) and CircuitLasso (Yin et al. 2026). Departs from both: who looks
is a list of words, so that nothing depends on a person.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.errors import DataError
from subcircuit.features.ablation import ablating
from subcircuit.features.circuits import Screen, rank
from subcircuit.features.codes import Codes
from subcircuit.features.harvest import activations
from subcircuit.features.placing import Chosen, Placed
from subcircuit.prompts import Prompts
from subcircuit.sites import Site
from subcircuit.subject import Subject

__all__ = ["Accuracies", "Probe", "accuracies", "attributed", "picked", "pooled", "word_share"]

ROUNDS = 100  # of L-BFGS
SCREEN = Screen(share=0.02)  # texts are few, and a feature that is on in one or two of them predicts them


@dataclass(frozen=True)
class Accuracies:
    """Shares of the texts, 0 to 1."""

    label: float  # told right; higher is better
    spurious: float  # on which the prediction agrees with the spurious attribute; 0.5 = does not depend on it
    worst: float  # told right in the worst of the four groups


@dataclass(frozen=True)
class Probe:
    """Logistic regression on columns with a mean of 0 and a variance of 1."""

    weight: Float[Tensor, " width"]
    bias: float

    @classmethod
    def fit(cls, x: Float[Tensor, "text width"], label: Bool[Tensor, " text"], *, ridge: float = 1e-3) -> "Probe":
        """By L-BFGS; half the squared weights, times `ridge`, join the mean loss. Raises DataError for one class."""
        if bool(label.all()) or not bool(label.any()):
            raise DataError("all texts have the same label", "give texts of both")
        mean, spread = x.double().mean(0), x.double().std(0).clamp(min=1e-9)
        scaled, y = (x.double() - mean) / spread, label.double()
        weight = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
        bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=ROUNDS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            found = torch.nn.functional.binary_cross_entropy_with_logits(scaled @ weight + bias, y)
            found = found + ridge / 2 * weight.square().sum()
            found.backward()
            return found

        optimizer.step(loss)
        own = weight.detach() / spread
        return cls(own.float(), float(bias.detach() - own @ mean))

    def __call__(self, x: Float[Tensor, "text width"]) -> Bool[Tensor, " text"]:
        """What it says of each text."""
        return x @ self.weight + self.bias > 0


def accuracies(
    said: Bool[Tensor, " text"], label: Bool[Tensor, " text"], spurious: Bool[Tensor, " text"]
) -> Accuracies:
    """How a classifier's answers stand to the label and the spurious attribute. Raises DataError for an empty group."""
    right, groups = (said == label).float(), 2 * label.long() + spurious.long()
    if len(groups.unique()) < 4:
        raise DataError("a group of label and spurious attribute has no text", "judge on balanced texts")
    worst = min(float(right[groups == group].mean()) for group in range(4))
    return Accuracies(float(right.mean()), float((said == spurious).float().mean()), worst)


@torch.no_grad()
def pooled(
    subject: Subject,
    prompts: Prompts,
    site: Site,
    dictionaries: Sequence[Placed] = (),
    off: Chosen | None = None,
    *,
    skip: int = 1,
    batch: int = 32,
) -> Float[Tensor, "text width"]:
    """The mean activation of each text at a site, with some features off. The first `skip` tokens are left out."""
    found = []
    with ablating(subject, dictionaries, off or {}, skip=skip):
        for rows in torch.arange(len(prompts)).split(batch):
            part = prompts[rows]
            act = activations(subject, part, [site])[site].flatten(2).float().cpu()
            kept = part.mask.clone()
            kept[:, :skip] = False
            weight = kept.float() / kept.sum(1, keepdim=True).clamp(min=1)
            found.append(torch.einsum("bt,btc->bc", weight.cpu(), act.masked_fill(~kept.cpu()[..., None], 0.0)))
    return torch.cat(found)


def attributed(codes: Codes, placed: Placed, probe: Probe, label: Bool[Tensor, " text"]) -> Float[Tensor, " feature"]:
    """What each feature adds to the probe's logit, its mean over the second class minus that over the first.

    For a linear classifier at the dictionary's own site that is integrated gradients, exactly.
    """
    every = torch.arange(codes.features)
    dense = codes.columns(every)
    means = [torch.mv(dense.t(), side.double() / side.sum()) for side in (label, ~label)]
    return (means[0] - means[1]).float() * (placed.dictionary.decoder @ probe.weight)


def picked(
    codes: Codes,
    label: Bool[Tensor, " text"],
    site: Site,
    share: Float[Tensor, " feature"],
    *,
    above: float = 0.3,
    screen: Screen = SCREEN,
) -> tuple[list[int], int]:
    """Features that say something of the label and fire on the spurious words; and how many were looked at in all.

    What is picked is left out and the rest ranked again, until nothing is picked: features say the same as others, and
    the lasso takes one of them at a time. `share` is that of `word_share`; picked is what has more than `above`.
    """
    off: list[int] = []
    looked: set[int] = set()
    while True:
        best = rank(codes.without(off), label.float(), site, screen).best()
        new = [feature for feature in best if share[feature] > above]
        looked |= {*best}
        if not new:
            return off, len(looked)
        off += new


def word_share(
    subject: Subject, prompts: Prompts, codes: Codes, words: Collection[str], *, skip: int = 1
) -> Float[Tensor, " feature"]:
    """The share of each feature's activation, token by token, that lies on these words; of a silent feature 0.

    `codes` has a row a token of these prompts. Case does not count; a word of several tokens counts by its first.
    """
    first = {
        subject.tokenizer(text, add_special_tokens=False).input_ids[0]
        for word in words
        for text in (f"{space}{each}" for space in ("", " ") for each in (word, word.lower(), word.capitalize()))
    }
    ids = torch.cat([row[mask][skip:] for row, mask in zip(prompts.ids, prompts.mask, strict=True)])
    if len(ids) != codes.rows:
        raise DataError(f"the codes have {codes.rows} rows for {len(ids)} tokens", "take them with pool='tokens'")
    on_words = torch.isin(ids, torch.tensor(sorted(first)))
    totals, shares = torch.zeros(codes.features), torch.zeros(codes.features)
    totals.index_add_(0, codes.feature, codes.value.float())
    shares.index_add_(0, codes.feature, codes.value.float() * on_words[codes.row])
    return shares / totals.clamp(min=1e-12)
