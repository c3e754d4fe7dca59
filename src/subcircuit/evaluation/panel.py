"""One set of prompts on which every mask of a circuit is run and judged alike.

The full model, the empty circuit and the reference activations are computed once and shared by all that is measured.
"""

import logging
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.circuit import Circuit, Kept, matched, sizes
from subcircuit.errors import DataError
from subcircuit.evaluation.lots import Lots
from subcircuit.evaluation.setting import Ablated
from subcircuit.gradients import Objective, attribution, coarsen
from subcircuit.intervention import Fill, Filling, Reference, acting, effective, masked_logits
from subcircuit.scores import PerPrompt, Scores, judge, summarise
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs, Split, Task

__all__ = ["RANKING", "Panel"]

log = logging.getLogger(__name__)

RANKING = 64  # discovery prompts the attribution controls rank by, as in the start of node pruning


class Panel:
    """Runs masks of one circuit's model over the same prompts, and judges them alike.

    `passes` counts the masked runs of all prompts; `full`, the plain run, is not among them.
    """

    ablated: Ablated = "outside the circuit"  # what is off where a circuit is run

    def __init__(
        self,
        subject: Subject,
        circuit: Circuit,
        discovery: Pairs,
        pairs: Pairs,
        batch_size: int,
        cache_bytes: int,
        seed: int,
        on_step: Callable[[str], None],
    ) -> None:
        _require_fit(circuit, subject)
        self.subject, self.circuit, self.discovery, self.pairs = subject, circuit, discovery, pairs
        self.batch_size, self.cache_bytes, self.seed, self.on_step = batch_size, cache_bytes, seed, on_step
        self.passes = 0
        self.reference = self.filled(pairs)
        self.full = self._full()
        self.whole = self.judged(self.full)
        self.empty = self._closed()

    @classmethod
    def draw(
        cls,
        subject: Subject,
        circuit: Circuit,
        task: Task,
        *,
        n: int = 200,
        split: Split = "test",
        seed: int = 0,
        batch_size: int = 32,
        cache_bytes: int = 2 << 30,
        on_step: Callable[[str], None] = lambda name: None,
    ) -> "Panel":
        """Over `n` pairs of a split, beside the discovery pairs the circuit was found by. Raises DataError."""
        origin = circuit.origin
        discovery = task.pairs(subject.tokenizer, origin.pairs["train"], seed=origin.seed, split="train")
        pairs = task.pairs(subject.tokenizer, n, seed=seed, split=split)
        return cls(subject, circuit, discovery, pairs, batch_size, cache_bytes, seed, on_step)

    @cached_property
    def chosen(self) -> PerPrompt:
        """The circuit itself."""
        return self.run("circuit", self.circuit.kept)

    @cached_property
    def complement(self) -> PerPrompt:
        """The model without the circuit."""
        return self.run("complement", {site: ~kept for site, kept in self.inner.items()})

    @cached_property
    def inner(self) -> dict[Site, Bool[Tensor, " unit"]]:
        """What the circuit keeps where masks act, its parents' gates multiplied in."""
        return {site: mask.bool() for site, mask in effective(self.subject, self.circuit.mask()).items()}

    @property
    def acting(self) -> list[Site]:
        """Where masks act, and references are needed."""
        return acting(self.circuit.kept)

    @property
    def gap(self) -> float:
        """Mean logit difference of the full model above that of the empty circuit."""
        return float((self.whole["logit_difference"] - self.empty["logit_difference"]).double().mean())

    def run(self, name: str, kept: Kept, reference: Filling | None = None) -> PerPrompt:
        """Every metric of one hard mask, prompt by prompt."""
        self.on_step(name)
        self.passes += 1
        mask = {site: truth.float() for site, truth in kept.items()}
        filling = reference or self.reference
        logits = masked_logits(self.subject, self.pairs.clean, mask, filling, batch_size=self.batch_size)
        return self.judged(logits)

    def judged(self, logits: Float[Tensor, "prompt vocab"]) -> PerPrompt:
        """Every metric of these answers, prompt by prompt."""
        return judge(self.full, logits, self.pairs)

    def scores(self, found: PerPrompt) -> Scores:
        """Means and intervals, beside the full and the empty circuit on the same resampled prompts."""
        return summarise(found, self.whole, self.empty, self.seed)

    def ranked(self, name: str, objective: Objective, steps: int) -> Scores:
        """The circuit of this size that holds the nodes of largest absolute attribution."""
        few = self.discovery[:RANKING]
        self.on_step(f"ranking by {name}")
        scores = attribution(
            self.subject, few, self.filled(few), objective=objective, steps=steps, batch_size=self.batch_size
        )
        ranks = {site: score.abs() for site, score in coarsen(self.subject, scores, list(Kind)).items()}
        return self.scores(self.run(name, self._matched(ranks)))

    def drawn(self, number: int, of: int) -> PerPrompt:
        """What a random circuit of this size does. The number names the same circuit, whoever runs it."""
        return self.lots[number](f"random {number + 1} of {of}")

    @cached_property
    def lots(self) -> Lots[Callable[[str], PerPrompt]]:
        """Random circuits, each to be run under a name."""
        return Lots(self._lot, self.seed)

    def _lot(self, generator: torch.Generator) -> Callable[[str], PerPrompt]:
        lots = {site: torch.rand(len(truth), generator=generator) for site, truth in self.circuit.kept.items()}
        return lambda name: self.run(name, self._matched(lots))

    def _full(self) -> Float[Tensor, "prompt vocab"]:
        return masked_logits(self.subject, self.pairs.clean, {}, self.reference, batch_size=self.batch_size)

    def _closed(self) -> PerPrompt:
        return self.run("empty", {site: torch.zeros_like(truth) for site, truth in self.circuit.kept.items()})

    def _matched(self, scores: Mapping[Site, Tensor]) -> Kept:
        """A control of the circuit's size; where its kinds leave no room for one, the log says so."""
        kept = matched(self.circuit.kept, scores)
        for kind, size in sizes(kept).items():
            if size != self.circuit.sizes[kind]:
                log.warning(
                    "a control keeps %d %s nodes, the circuit %d", size.kept, kind, self.circuit.sizes[kind].kept
                )
        return kept

    def filled(self, by: Pairs) -> Reference:
        return Reference(
            self.subject,
            cast(Fill, self.circuit.origin.reference),
            by.clean,
            by.corrupt,
            self.acting,
            source=self.discovery.clean,
            seed=self.seed,
            cache_bytes=self.cache_bytes,
            batch_size=self.batch_size,
        )


def _require_fit(circuit: Circuit, subject: Subject) -> None:
    """A circuit of another shape would leave layers open without a word."""
    units = {site: len(truth) for site, truth in circuit.kept.items()}
    layers, kinds = {site.layer for site in units}, {site.kind for site in units}
    if layers != set(range(len(subject))) or any(subject.units(site.kind) != size for site, size in units.items()):
        had = ", ".join(f"{max(units[site] for site in units if site.kind is kind)} {kind}" for kind in sorted(kinds))
        has = ", ".join(f"{subject.units(kind)} {kind}" for kind in sorted(kinds))
        raise DataError(
            f"the circuit of {circuit.origin.model} has {len(layers)} layers of {had}; {subject.name} has "
            f"{len(subject)} layers of {has}",
            "score it on the model it was found in",
        )
