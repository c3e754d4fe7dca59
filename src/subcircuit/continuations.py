"""How likely a model finds answers of several tokens: a prompt goes on with each of them, and is judged at its tokens.

An answer's log probability is the mean over its tokens, so that long answers are not unlikely by their length
(`exp` of it is the geometric mean of the tokens' probabilities).
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.sites import Site
from subcircuit.subject import Prompts, Subject
from subcircuit.tasks._base import Pairs

__all__ = ["Continued"]

MISSING = -1e9  # log probability of an answer that a row does not have


class Continued:
    """Prompts and the answers that follow them: right ones first, then wrong ones.

    `pairs` are those pairs with the number of an answer in the place of a token, so that what judges logits judges the
    answers' log probabilities alike.
    """

    def __init__(self, prompts: Prompts, pairs: Pairs) -> None:
        assert pairs.continued is not None
        right, wrong = pairs.continued.right, pairs.continued.wrong
        longest = max(right.shape[2], wrong.shape[2])
        self.prompts = prompts
        self.answers: Int[Tensor, "pair answer token"] = torch.cat(
            [torch.nn.functional.pad(each, (0, longest - each.shape[2]), value=-1) for each in (right, wrong)], 1
        )
        numbers = torch.arange(self.answers.shape[1]).masked_fill((self.answers < 0).all(-1), -1)
        self.pairs = replace(pairs, right=numbers[:, : right.shape[1]], wrong=numbers[:, right.shape[1] :])

    def sequences(self, rows: Int[Tensor, " row"]) -> tuple[Prompts, Int[Tensor, "sequence token"]]:
        """Each row once for each answer, and the positions whose logits predict the answer's tokens."""
        prompts, answers = self.prompts[rows], self.answers[rows]
        several = answers.shape[1]
        own = repeat(prompts.lengths, "row -> (row answer)", answer=several)
        tokens = rearrange(answers, "row answer token -> (row answer) token")
        ids = repeat(prompts.ids, "row pos -> (row answer) pos", answer=several)
        ids = torch.nn.functional.pad(ids, (0, tokens.shape[1]))
        at = own[:, None] - 1 + torch.arange(tokens.shape[1])
        ids = ids.scatter(1, at + 1, tokens.clamp(min=0))
        lengths = own + (tokens >= 0).sum(1)
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        return Prompts(ids, mask, own - 1), at

    def log_probabilities(self, subject: Subject, rows: Int[Tensor, " row"]) -> Float[Tensor, "row answer"]:
        """Of every answer, the mean over its tokens; gradients flow."""
        sequences, at = self.sequences(rows)
        logits = subject.logits_at(sequences, at)
        tokens = rearrange(self.answers[rows], "row answer token -> (row answer) token").to(logits.device)
        each = logits.log_softmax(-1).gather(2, tokens.clamp(min=0)[..., None])[..., 0]
        there = tokens >= 0
        mean = (each * there).sum(1) / there.sum(1).clamp(min=1)
        mean = mean.masked_fill(~there.any(1), MISSING)
        return rearrange(mean, "(row answer) -> row answer", row=len(rows))

    def gates(
        self, gates: Mapping[Site, Tensor], rows: Int[Tensor, " row"]
    ) -> dict[Site, Float[Tensor, "sequence pos unit"]]:
        """Gates of the prompts as gates of the sequences: an answer's own tokens keep their values."""
        width = self.prompts[rows].ids.shape[1]
        several, longest = self.answers.shape[1:]
        inside = torch.arange(width + longest) < self.prompts.lengths[rows][:, None]
        found = {}
        for site, gate in gates.items():
            if gate.dim() < 3:
                gate = gate[..., None, :].expand(len(rows), width, gate.shape[-1])
            gate = torch.nn.functional.pad(gate, (0, 0, 0, longest), value=1.0)
            gate = torch.where(inside[..., None].to(gate.device), gate, torch.ones_like(gate))
            found[site] = repeat(gate, "row pos unit -> (row answer) pos unit", answer=several)
        return found

    def values(self, values: Mapping[Site, Tensor]) -> dict[Site, Float[Tensor, "sequence pos unit channel"]]:
        """A reference's values for the prompts as values for the sequences."""
        several, longest = self.answers.shape[1:]
        found = {}
        for site, value in values.items():
            if value.shape[1] > 1:
                value = torch.nn.functional.pad(value, (0, 0, 0, 0, 0, longest))
            repeats = several if len(value) > 1 else 1
            found[site] = repeat(value, "row ... -> (row answer) ...", answer=repeats)
        return found
