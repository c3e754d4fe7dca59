"""What a method on edges is run on: the graph of the model, references for its writers, KL of tables of edges."""

import math
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit import metrics
from subcircuit.circuit import Circuit
from subcircuit.edge_tables import Edges, best, connected, live_nodes, node_scores
from subcircuit.edges import rewired, rewired_logits, writer_sites
from subcircuit.errors import NumericalError
from subcircuit.intervention import Reference
from subcircuit.methods._study import Settings, Study
from subcircuit.parallel.rows import shared
from subcircuit.progress import Progress
from subcircuit.sites import Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs, Task
from subcircuit.wiring import Wiring

__all__ = ["EdgeStudy"]

Truth = Bool[Tensor, "reader writer"]
Table = Float[Tensor, "reader writer"]


class EdgeStudy(Study):
    """Raises UnsupportedModel for an encoder, UsageError where the folder holds the state of another search."""

    def __init__(
        self,
        method: str,
        settings: Settings,
        subject: Subject,
        task: Task,
        pairs: Pairs | None = None,
        folder: Path | None = None,
    ) -> None:
        self.wiring = Wiring.of(subject.layout)
        super().__init__(method, settings, subject, task, pairs, folder)

    @property
    def filled(self) -> list[Site]:
        """Where references are needed: at every writer."""
        return writer_sites(self.subject)

    @cached_property
    def held_out(self) -> Pairs:
        """Prompts that no edge was scored on."""
        settings = self.settings
        return self.task.pairs(self.subject.tokenizer, settings.validation, seed=settings.seed, split="validation")

    @cached_property
    def filling(self) -> Reference:
        """The references of the held-out prompts."""
        return self.reference(self.held_out)

    @cached_property
    def whole(self) -> Float[Tensor, "pair vocab"]:
        """The full model's logits on the held-out prompts."""
        return self._run(self.wiring.allowed)

    def edges_kl(self, kept: Truth) -> float:
        """KL(full || circuit) on the held-out prompts, in nats. Raises NumericalError when it is no number."""
        kl = float(metrics.kl(self.whole, self._run(kept)).mean())
        if not math.isfinite(kl):
            raise NumericalError(f"the circuit's KL is {kl}", "use float32 weights, or check the prompts")
        return kl

    def slopes(self, kept: Truth) -> Table:
        """The gradient of that KL by how far each edge is open: negative = more of it would help, open now or not."""
        table = kept.float().requires_grad_()
        total = torch.zeros_like(table)

        def add(rows: Tensor) -> None:
            with rewired(self.subject, self.wiring, table, self.filling(rows)):
                logits = self.subject.logits(self.held_out.clean[rows])
            kl = metrics.kl(self.whole[rows], logits).sum() / len(self.held_out)
            total.add_(torch.autograd.grad(kl, table)[0])

        shared(add, self.held_out.clean.lengths, self.settings.batch, total)
        return total

    def smallest(self, ranks: Table, budget: float, tell: Progress) -> Truth:
        """The fewest edges in the order of `ranks` whose connected part meets the budget, by bisection.

        To one edge, or to one in a hundred where there are that many, and as if KL only fell with their number; where
        it does not, a number that meets the budget and below which one does not.
        """
        low, high, done = -1, int(self.wiring.allowed.sum()), 0
        while high - low > max(1, high // 100):
            middle = (low + high) // 2
            kl = self.edges_kl(self.top(ranks, middle))
            low, high = (low, middle) if kl <= budget else (middle, high)
            done += 1
            tell("threshold", done, done + math.ceil(math.log2(max(1, (high - low) / max(1, high // 100)))), kl=kl)
        return self.top(ranks, high)

    def top(self, ranks: Table, n: int) -> Truth:
        """What is connected of the first `n` edges."""
        return connected(self.wiring, best(self.wiring, ranks, n))

    def circuit(self, scores: Table, kept: Truth, nodes: dict[Site, Tensor] | None = None, **result: float) -> Circuit:
        """These edges and the nodes they join; what the search came to is in the origin's result.

        Args:
            nodes: their scores, when they are not the sums over the edges that leave them.
        """
        found = {"kl": self.edges_kl(kept), "share": float(kept.sum() / self.wiring.allowed.sum()), **result}
        edges = Edges(self.wiring, scores.masked_fill(~self.wiring.allowed, 0.0), kept)
        nodes = node_scores(self.wiring, edges.scores) if nodes is None else nodes
        return Circuit(nodes, live_nodes(self.wiring, kept), self.origin(found), edges)

    def _run(self, kept: Truth) -> Float[Tensor, "pair vocab"]:
        """The held-out logits with these edges open."""
        clean, size = self.held_out.clean, self.settings.batch
        return rewired_logits(self.subject, self.wiring, clean, kept.float(), self.filling, batch_size=size)
