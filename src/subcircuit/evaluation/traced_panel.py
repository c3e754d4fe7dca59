"""The panel of a causal tracing: the circuit's nodes are replaced, all others compute on what reaches them.

So the rows of evidence turn round. Beside the run in which nothing is replaced stand those in which the circuit is,
everything is, as many random nodes are, and as many as a gradient of the same metric would choose: at the run itself,
or averaged on the way to the full replacement. Each has the effect on the metric that the search was told to move.
Where nodes are replaced at parts of the positions, what is drawn and ranked is a node at a part, as many at each.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.batching import batched
from subcircuit.circuit import Circuit, Kept, matched
from subcircuit.errors import DataError, UsageError
from subcircuit.evaluation.panel import RANKING, Panel
from subcircuit.gradients import Objective
from subcircuit.intervention import Fill, Filling, Reference
from subcircuit.replacement import Direction, Replacement
from subcircuit.scores import Estimate, PerPrompt, Scores, judge
from subcircuit.sites import Site
from subcircuit.tasks._base import Pairs

__all__ = ["TracedPanel", "shortcoming"]


class TracedPanel(Panel):
    """Replaces sets of nodes on the same prompts, and judges them alike.

    Raises DataError for a metric of one's own that comes with a circuit from the hub: it would run code by name.
    """

    ablated = "the circuit"

    @cached_property
    def replacing(self) -> Replacement:
        """Replacements on the panel's pairs."""
        return self._replacing(self.pairs)

    @cached_property
    def replaced(self) -> Kept:
        """What the circuit replaces; with parts of the positions, part by part."""
        return self.replaced_by(self.circuit)

    @staticmethod
    def replaced_by(circuit: Circuit) -> Kept:
        """The same of any circuit."""
        at = circuit.positions
        if at is None:
            return circuit.kept
        return {site: torch.stack([kept[site] for kept in at.values()]) for site in circuit.kept}

    @cached_property
    def chosen(self) -> PerPrompt:
        return self.run("circuit", self.replaced)

    def run(self, name: str, kept: Kept, reference: Filling | None = None) -> PerPrompt:
        """Every metric with these nodes replaced, prompt by prompt."""
        if reference is not None:
            raise UsageError("what replaces nodes is part of a causal tracing", "score it without another reference")
        self.on_step(name)
        self.passes += 1
        return self.judged(self.replacing.logits({site: 1 - truth.float() for site, truth in kept.items()}))

    def judged(self, logits: Float[Tensor, "prompt vocab"]) -> PerPrompt:
        """Every metric of these answers, the search's own with them."""
        return {**judge(self.full, logits, self.replacing.pairs), "effect": self.replacing.change(logits).cpu()}

    def ranked(self, name: str, objective: Objective, steps: int) -> Scores:
        """As many nodes, of the largest gradients of the metric on the discovery pairs."""
        few = self._replacing(self.discovery[:RANKING])
        self.on_step(f"ranking by {name}")
        points = [0.0] if steps == 1 else [(step + 0.5) / steps for step in range(steps)]
        slopes = [self._slopes(few, point) for point in points]
        ranks = {site: torch.stack([each[site] for each in slopes]).mean(0) for site in self.replaced}
        return self.scores(self.run(name, self._matched(ranks)))

    def _lot(self, generator: torch.Generator) -> Callable[[str], PerPrompt]:
        """As many nodes drawn at random."""
        lots = {site: torch.rand(truth.shape, generator=generator) for site, truth in self.replaced.items()}
        return lambda name: self.run(name, self._matched(lots))

    def _matched(self, scores: Mapping[Site, Tensor]) -> Kept:
        if self.circuit.positions is None:
            return super()._matched(scores)
        of_parts = [
            matched(kept, {site: score[number] for site, score in scores.items()})
            for number, kept in enumerate(self.circuit.positions.values())
        ]
        return {site: torch.stack([kept[site] for kept in of_parts]) for site in self.circuit.kept}

    def filled(self, by: Pairs) -> Reference:
        return self.replacing.reference if by is self.pairs else self._replacing(by).reference

    def _full(self) -> Float[Tensor, "prompt vocab"]:
        return self.replacing.base_logits

    def _closed(self) -> PerPrompt:
        return self.run("everything", {site: torch.ones_like(truth) for site, truth in self.replaced.items()})

    def _replacing(self, pairs: Pairs) -> Replacement:
        origin = self.circuit.origin
        metric = str(origin.settings["metric"])
        if origin.shared and ":" in metric:
            raise DataError(
                f"this circuit comes from {origin.shared}, and its metric {metric} is a function on this machine",
                "find the circuit again with a metric that you trust",
            )
        return Replacement(
            self.subject,
            pairs,
            list(self.circuit.kept),
            metric,
            direction=cast(Direction, origin.settings["direction"]),
            fill=cast(Fill, origin.reference),
            source=self.discovery.clean,
            seed=self.seed,
            cache_bytes=self.cache_bytes,
            batch_size=self.batch_size,
            parts=tuple(self.circuit.positions or ()),
        )

    def _slopes(self, replacing: Replacement, point: float) -> dict[Site, Float[Tensor, " unit"]]:
        """Each node's slope of the metric where the same share of every node is replaced."""
        gates = {site: torch.full(truth.shape, 1 - point).requires_grad_() for site, truth in self.replaced.items()}
        total = {site: torch.zeros_like(gate) for site, gate in gates.items()}

        def add(rows: Tensor) -> None:
            moved = replacing.change(replacing.run(rows, gates), rows, smooth=True).sum()
            for site, slope in zip(gates, torch.autograd.grad(moved, list(gates.values())), strict=True):
                total[site] -= slope

        batched(add, replacing.prompts.lengths, self.batch_size)
        return total


def shortcoming(own: Estimate, rivals: Mapping[str, Estimate], lots: Sequence[Estimate]) -> str:
    """Why an effect proves nothing; empty where it is evidence.

    Evidence: the effect is above nothing beyond its interval, above that of every random set and no lower than that of
    the rivals, the sets that gradients choose.
    """
    if own.low <= 0:
        return f"the effect of {own.mean:.3g} [{own.low:.3g}, {own.high:.3g}] is not clearly above nothing"
    better = [f"{name} ({rival.mean:.3g})" for name, rival in rivals.items() if rival.mean > own.mean]
    lucky = sum(lot.mean >= own.mean for lot in lots)
    if lucky:
        better.append(f"{lucky} of {len(lots)} random sets")
    return f"the effect of {own.mean:.3g} is not above that of {', '.join(better)}" if better else ""
