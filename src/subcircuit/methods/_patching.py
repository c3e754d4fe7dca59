"""What one node does by itself: its value swapped between a clean and a corrupted run, everything else left alone.

Many nodes are patched in one pass: a row is one prompt with one node patched.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit import metrics
from subcircuit.intervention import Reference, masked_logits, masking
from subcircuit.methods._study import Study, require_finite
from subcircuit.parallel.rows import shared
from subcircuit.sites import Site
from subcircuit.subject import Prompts

__all__ = ["Direction", "Metric", "Patching", "directions"]

Direction = Literal["noise", "denoise", "both"]
Metric = Literal["logit-difference", "kl", "probability"]


def directions(direction: str) -> list[str]:
    """The single directions: "both" is two."""
    return [each for each in get_args(Direction) if each != "both" and direction in (each, "both")]


@dataclass(frozen=True)
class Run:
    """A run into which nodes are patched: the clean run, patched with references, or the corrupted one with clean."""

    prompts: Prompts
    reference: Reference
    base: Float[Tensor, " pair"]  # the metric with nothing patched
    sign: float  # of the change that a helpful node's patch makes


class Patching:
    """Effects of single nodes on a metric that is higher the nearer a run is to the clean one; positive = it helps."""

    def __init__(self, study: Study, direction: str, metric: str) -> None:
        self.study, self.metric, self.room = study, metric, study.settings.batch
        names = directions(direction)
        pairs, subject, size = study.pairs, study.subject, study.settings.batch
        references = {name: study.reference(pairs, share=0.5 / len(names), swapped=name == "denoise") for name in names}
        some = next(iter(references.values()))
        self.full, self.floor = (
            masked_logits(subject, prompts, {}, some, batch_size=size) for prompts in (pairs.clean, pairs.corrupt)
        )
        rows = torch.arange(len(pairs))
        top, bottom = (self._judge(logits, rows) for logits in (self.full, self.floor))
        self.gap = float((top - bottom).mean())  # what all nodes together could do, embeddings included
        self.runs = [
            Run(pairs.corrupt, references[name], bottom, 1.0)
            if name == "denoise"
            else Run(pairs.clean, references[name], top, -1.0)
            for name in names
        ]

    def effects(self, site: Site, positions: int = 0) -> Float[Tensor, " unit"] | Float[Tensor, "unit pos"]:
        """Mean over prompts and directions of what patching each unit changes; at each position if there are some.

        Raises NumericalError when an effect is not finite.
        """
        units = self.study.subject.units(site.kind)
        shape = (units, positions) if positions else (units,)
        found = torch.stack([self._changes(run, site, units, positions) for run in self.runs]).mean(0)
        require_finite(found, site)
        return found.view(shape).float()

    def _changes(self, run: Run, site: Site, units: int, positions: int) -> Tensor:
        pairs, places = len(run.prompts), units * max(1, positions)
        total = torch.zeros(places, dtype=torch.float64)

        def add(items: Int[Tensor, " item"]) -> None:
            place, row = items // pairs, items % pairs
            with torch.no_grad():
                logits = self._patched(run, site, row, _gates(place, units, positions, run.prompts[row].ids.shape[1]))
            change = run.sign * (self._judge(logits, row) - run.base[row])
            total.index_add_(0, place, change.double() / pairs)

        self.room = shared(add, run.prompts.lengths.repeat(places), self.room, total)
        return total

    def _patched(self, run: Run, site: Site, row: Tensor, gates: Tensor) -> Float[Tensor, "item vocab"]:
        """The judged logits, each prompt with its own node closed."""
        once, back = row.unique(return_inverse=True)  # each prompt's reference is needed once, not once per node
        values = {at: value[back] if len(value) > 1 else value for at, value in run.reference(once).items()}
        with masking(self.study.subject, {site: gates}, values):
            return self.study.subject.logits(run.prompts[row])

    def _judge(self, logits: Tensor, rows: Tensor) -> Float[Tensor, " row"]:
        pairs = self.study.pairs
        if self.metric == "kl":
            return -metrics.kl(self.full[rows].to(logits.device), logits).cpu()
        if self.metric == "probability":
            return metrics.probability(logits, pairs.right[rows]).cpu()
        return metrics.logit_difference(logits, pairs.right[rows], pairs.wrong[rows]).cpu()


def _gates(place: Int[Tensor, " item"], units: int, positions: int, length: int) -> Float[Tensor, "item *pos unit"]:
    """Open but for one unit, or for one unit at one position."""
    items = torch.arange(len(place))
    if not positions:
        gates = torch.ones(len(place), units)
        gates[items, place] = 0
        return gates
    gates = torch.ones(len(place), length, units)
    gates[items, place % positions, place // positions] = 0
    return gates
