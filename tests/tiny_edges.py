"""A tiny decoder, its graph, padded prompts and their references: what tests of edges start from."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from subcircuit import plugins
from subcircuit.edge_tables import best
from subcircuit.edges import rewired, rewired_logits, writer_sites
from subcircuit.intervention import Reference
from subcircuit.metrics import logit_difference
from subcircuit.subject import Prompts, Subject
from subcircuit.tasks._base import Pairs
from subcircuit.wiring import Wiring
from tiny import random_pairs, shortened, tiny

__all__ = ["DECODERS", "EdgeStudy", "decoders", "edge_study", "encoders", "half", "names", "reference_of"]

DECODERS = [name for name in plugins.names("families") if plugins.load("families", name).causal]
decoders = pytest.mark.parametrize("decoder", DECODERS)
encoders = pytest.mark.parametrize("encoder", sorted(set(plugins.names("families")) - set(DECODERS)))


class EdgeStudy(NamedTuple):
    """In the order in which the library's functions take them."""

    subject: Subject
    wiring: Wiring
    pairs: Pairs
    reference: Reference

    @property
    def rows(self) -> Tensor:
        return torch.arange(len(self.pairs))

    def logits(self, table: Tensor) -> Tensor:
        return rewired_logits(self.subject, self.wiring, self.pairs.clean, table, self.reference)

    def difference(self, prompts: Prompts | None = None) -> Tensor:
        """The summed logit difference as the model stands, of the clean prompts when no others are given."""
        logits = self.subject.logits(prompts or self.pairs.clean)
        return logit_difference(logits, self.pairs.right, self.pairs.wrong).sum()

    def slopes(self, at: Tensor) -> Tensor:
        """The gradient of the summed logit difference by a table of edges."""
        with torch.enable_grad():
            table = at.clone().requires_grad_()
            with rewired(self.subject, self.wiring, table, self.reference(self.rows)):
                return torch.autograd.grad(self.difference(), table)[0]


def edge_study(decoder: str, length: int = 9) -> EdgeStudy:
    """A random model and three pairs of prompts, two of them padded."""
    subject = tiny(decoder)
    whole = random_pairs(subject, 3, length, seed=4)
    pairs = Pairs(shortened(whole.clean), shortened(whole.corrupt), whole.right, whole.wrong)
    return EdgeStudy(subject, Wiring.of(subject.layout), pairs, reference_of(subject, pairs))


def reference_of(subject: Subject, pairs: Pairs) -> Reference:
    """The corrupted runs."""
    return Reference(subject, "corrupt", pairs.clean, pairs.corrupt, writer_sites(subject))


def half(wiring: Wiring, seed: int) -> Tensor:
    """Half of the edges, at random."""
    lots = torch.rand(wiring.allowed.shape, generator=torch.Generator().manual_seed(seed))
    return best(wiring, lots, int(wiring.allowed.sum()) // 2)


def names(wiring: Wiring, truth: Tensor) -> list[str]:
    return [wiring.name(reader, writer) for reader, writer in (truth & wiring.allowed).nonzero().tolist()]
