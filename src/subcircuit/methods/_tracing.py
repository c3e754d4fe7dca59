"""What causal tracing is run on: components, and their joint replacement on discovery and validation pairs."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Protocol, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from subcircuit.circuit import Circuit
from subcircuit.errors import NumericalError, UsageError
from subcircuit.intervention import Fill
from subcircuit.methods._components import Components, Cost
from subcircuit.methods._study import Settings, Study
from subcircuit.parallel.rows import shared
from subcircuit.positions import parts_of
from subcircuit.replacement import Direction, Replacement
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs, Task

__all__ = ["Tracing", "order"]

Chosen = Bool[Tensor, " component"]


class Traced(Settings, Protocol):
    """The settings that say what is replaced, and what is to move."""

    @property
    def metric(self) -> str: ...
    @property
    def direction(self) -> str: ...
    @property
    def group(self) -> int: ...
    @property
    def cost(self) -> str: ...
    @property
    def positions(self) -> str: ...
    @property
    def limit(self) -> int: ...


class Tracing(Study):
    """Raises UsageError where the folder holds the state of another search.

    `passes` counts forward passes of one discovery prompt; those of a step of the gates are followed by a backward one.
    """

    settings: Traced
    _passes: int | None = None

    def __init__(
        self,
        method: str,
        settings: Settings,
        subject: Subject,
        task: Task,
        pairs: Pairs | None = None,
        folder: Path | None = None,
    ) -> None:
        super().__init__(method, settings, subject, task, pairs, folder)
        self.began -= float(self.memory.facts.get("seconds", 0.0))

    def keep(self, tensors: Mapping[str, Tensor], **facts: float) -> None:
        """As every study does, with the seconds so far."""
        super().keep(tensors, seconds=perf_counter() - self.began, **facts)

    @property
    def passes(self) -> int:
        """Counted on from the memory."""
        return int(self.memory.facts.get("passes", 0)) if self._passes is None else self._passes

    @passes.setter
    def passes(self, passes: int) -> None:
        self._passes = passes

    @cached_property
    def components(self) -> Components:
        """What is replaced as one."""
        cost = cast(Cost, self.settings.cost)
        return Components.of(self.subject, self.kinds, self.settings.group, cost=cost, parts=self.parts)

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """Of the positions, those that have components of their own."""
        return parts_of(self.settings.positions, self.pairs)

    @cached_property
    def replacing(self) -> Replacement:
        """Replacements on the discovery pairs."""
        return self._replacing(self.pairs)

    def value(self, chosen: Chosen) -> float:
        """Mean change of the metric when the chosen components are replaced; a ratio's in nats."""
        return float(self.values(chosen[None])[0])

    def values(self, masks: Bool[Tensor, "mask component"]) -> Float[Tensor, " mask"]:
        """The same for many sets of components, many of them in one pass. Raises NumericalError."""
        pairs, total = len(self.pairs), torch.zeros(len(masks), dtype=torch.float64)
        lengths = self.replacing.prompts.lengths.repeat(len(masks))

        def add(items: Int[Tensor, " item"]) -> None:
            mask, row = items // pairs, items % pairs
            with torch.no_grad():
                logits = self.replacing.run(row, self.components.gates(masks[mask].float()))
            total.index_add_(0, mask, self.replacing.change(logits, row).double() / pairs)

        shared(add, lengths, self.settings.batch, total)
        self.passes += len(lengths)
        self.require_finite(total)
        return total.float()

    def slopes(self, m: Float[Tensor, " component"]) -> tuple[float, Float[Tensor, " component"]]:
        """Mean change of the metric at shares `m`, and its gradient. Raises NumericalError."""
        m, pairs = m.detach().clone().requires_grad_(), len(self.pairs)
        slopes, found = torch.zeros(len(m)), torch.zeros((), dtype=torch.float64)

        def add(rows: Tensor) -> None:
            change = self.replacing.change(self.replacing.run(rows, self.components.gates(m)), rows, smooth=True)
            (slope,) = torch.autograd.grad(change.sum() / pairs, m)
            slopes.add_(slope)
            found.add_(float(change.detach().sum()) / pairs)

        shared(add, self.replacing.prompts.lengths, self.settings.batch, slopes, found)
        self.passes += pairs
        self.require_finite(found)
        self.require_finite(slopes)
        return float(found), slopes

    def require_finite(self, found: Tensor) -> None:
        """Raise NumericalError, naming the metric, when a change or a slope is no number."""
        if not found.isfinite().all():
            raise NumericalError(
                f"a joint replacement's effect on {self.settings.metric} is not finite",
                "what is done is kept; go on with float32 weights, or check the prompts",
            )

    def circuit(self, chosen: Chosen, scores: Float[Tensor, " component"], k: int) -> Circuit:
        """The chosen components as a circuit, with what their replacement does on the validation pairs."""
        kept, held_out = self.components.kept(chosen), self.held_out
        change = held_out.change(held_out.logits(self.components.gates(chosen.float())))
        result = {
            "kl": self.kl(kept),
            "k": k,
            "count": int(chosen.sum()),
            "price": float(self.components.cost(chosen)),
            "effect": float(change.mean()),
            "relative": float(held_out.relative(change).mean()),
            "whole": float(held_out.whole.mean()),
            "discovery": self.value(chosen),
            "wrong_way": self.replacing.wrong_way,
            "passes": self.passes,
        }
        at = self.components.kept_at(chosen)
        return Circuit(self.components.spread(scores), kept, self.origin(result, k=k), positions=at)

    @cached_property
    def held_out(self) -> Replacement:
        """Replacements on the validation pairs."""
        return self._replacing(self.validation.pairs)

    def require_room(self, masks: int, what: str) -> None:
        """Raise UsageError when so many sets of components are more than the limit allows."""
        passes, limit = masks * len(self.pairs), self.settings.limit
        if passes > limit:
            raise UsageError(
                f"{what} makes {passes:,} passes of one prompt; the limit is {limit:,}",
                f"--limit {passes} goes on all the same; fewer --pairs, a smaller --k or --search gates take fewer",
            )

    def _replacing(self, pairs: Pairs) -> Replacement:
        settings = self.settings
        return Replacement(
            self.subject,
            pairs,
            self.sites,
            settings.metric,
            direction=cast(Direction, settings.direction),
            fill=cast(Fill, settings.reference),
            source=self.pairs.clean,
            seed=settings.seed,
            cache_bytes=int(settings.cache_gb * 2**30 / 4),
            batch_size=settings.batch,
            parts=self.parts,
        )


def order(n: int, seed: int, epoch: int) -> Int[Tensor, " row"]:
    """The rows of an epoch in an order that depends on the seed and the epoch alone."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(hash((seed, epoch)) % (1 << 63)))
