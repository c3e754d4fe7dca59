"""The panel of a circuit of edges: the same prompts and rows of evidence, with edges switched in place of nodes.

The empty circuit has no edge, so that every reader, the unembedding too, takes in the reference's residual stream. The
complement has the edges that the circuit has not. Controls hold as many edges as the circuit: at random, or by edge
attribution (EAP) and its integrated form over inputs.
"""

from collections.abc import Callable
from functools import cached_property
from typing import cast

import torch
from jaxtyping import Bool
from torch import Tensor

from subcircuit.circuit import Circuit
from subcircuit.edge_gradients import edge_attribution
from subcircuit.edge_tables import Edges, best, connected
from subcircuit.edges import rewired_logits, writer_sites
from subcircuit.evaluation.panel import RANKING, Panel
from subcircuit.evaluation.ranking import Ranked
from subcircuit.evaluation.setting import traced
from subcircuit.evaluation.traced_panel import TracedPanel
from subcircuit.gradients import Objective
from subcircuit.scores import PerPrompt, Scores, judge
from subcircuit.sites import Site

__all__ = ["EdgePanel", "EdgeRanking", "panel_of"]

Table = Bool[Tensor, "reader writer"]


class EdgePanel(Panel):
    """Runs tables of edges over the same prompts, and judges them alike."""

    @property
    def edges(self) -> Edges:
        """The circuit's."""
        assert self.circuit.edges is not None  # see `panel_of`
        return self.circuit.edges

    @property
    def acting(self) -> list[Site]:
        """Writers are replaced by their references."""
        return writer_sites(self.subject)

    @cached_property
    def chosen(self) -> PerPrompt:
        """The circuit itself."""
        return self.table("circuit", self.edges.kept)

    @cached_property
    def complement(self) -> PerPrompt:
        """The model without the circuit's edges."""
        return self.table("complement", self.edges.wiring.allowed & ~self.edges.kept)

    def table(self, name: str, kept: Table) -> PerPrompt:
        """Every metric with only these edges, prompt by prompt."""
        self.on_step(name)
        self.passes += 1
        logits = rewired_logits(
            self.subject, self.edges.wiring, self.pairs.clean, kept.float(), self.reference, batch_size=self.batch_size
        )
        return judge(self.full, logits, self.pairs)

    def ranked(self, name: str, objective: Objective, steps: int) -> Scores:
        """As many edges as the circuit has, of largest absolute attribution."""
        few = self.discovery[:RANKING]
        self.on_step(f"ranking by {name}")
        scores = edge_attribution(
            self.subject,
            self.edges.wiring,
            few,
            self.filled(few),
            objective=objective,
            path="clean" if steps == 1 else "inputs",
            steps=steps,
            batch_size=self.batch_size,
        )
        return self.scores(self.table(name, self._best(scores.abs())))

    def _lot(self, generator: torch.Generator) -> Callable[[str], PerPrompt]:
        """As many edges, drawn at random."""
        lots = torch.rand(self.edges.kept.shape, generator=generator)
        return lambda name: self.table(name, self._best(lots))

    def _closed(self) -> PerPrompt:
        return self.table("empty", torch.zeros_like(self.edges.kept))

    def _best(self, ranks: Tensor) -> Table:
        return best(self.edges.wiring, ranks, int(self.edges.kept.sum()))


class EdgeRanking(Ranked):
    """The edges of a circuit's wiring."""

    def __init__(self, panel: EdgePanel) -> None:
        super().__init__(panel)
        self.panel, self.allowed = panel, panel.edges.wiring.allowed
        self.scores = panel.edges.scores[self.allowed]

    def connected(self, chosen: Bool[Tensor, " item"]) -> Bool[Tensor, " item"]:
        """The edges among the chosen that lie on a path from the input to the logits."""
        return connected(self.panel.edges.wiring, self._table(chosen))[self.allowed]

    def _judged(self, chosen: Bool[Tensor, " item"]) -> PerPrompt:
        return self.panel.table(f"top {int(chosen.sum())} edges", self._table(chosen))

    def _table(self, chosen: Bool[Tensor, " item"]) -> Table:
        return torch.zeros_like(self.allowed).masked_scatter(self.allowed, chosen)


def panel_of(circuit: Circuit) -> type[Panel]:
    """The kind of panel a circuit is scored on."""
    if traced(circuit):
        return cast("type[Panel]", TracedPanel)
    return Panel if circuit.edges is None else cast("type[Panel]", EdgePanel)
