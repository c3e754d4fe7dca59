"""The search of causal tracing: shares that climb inside an exact budget, then exchanges in what they chose.

The shares start in the middle of the budget's simplex, where a gradient speaks of every component in the company of the
others, and are projected back after every step. What smaller budgets chose stays in larger ones. Where there are few
sets to choose from, all of them are tried instead; not where components differ in cost.
"""

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.gates import capped_simplex
from subcircuit.methods._components import fitting
from subcircuit.methods._tracing import Tracing
from subcircuit.progress import Progress

__all__ = ["Climb"]

POINTS = (0.25, 0.75)  # of the way from nothing to everything replaced, where the scores' gradients are taken
ROUND = 8  # exchanges that are tried between two gradients
GAIN = 1e-6  # below this an exchange is no better

Chosen = Bool[Tensor, " component"]


class Climb:
    """Sets of components, one per budget, each inside the next. `run` goes on from wherever the memory is."""

    def __init__(self, tracing: Tracing, steps: int, lr: float, polish: int, exact: int, tell: Progress) -> None:
        self.tracing, self.steps, self.lr, self.polish, self.tell = tracing, steps, lr, polish, tell
        self.exact = exact  # sets, at most, that are all tried
        if "scores" not in tracing.memory.tensors:
            tracing.memory.facts |= {"step": 0}
            tracing.keep({"scores": self._scores()}, passes=tracing.passes)

    @property
    def scores(self) -> Float[Tensor, " component"]:
        """Each component's part in the full replacement's effect, to first order; a ratio's in nats."""
        return self.tracing.memory.tensors["scores"]

    def run(self, budgets: Sequence[int]) -> list[Chosen]:
        """The set of each budget; budgets ascend."""
        chosen = torch.zeros(len(self.tracing.components), dtype=torch.bool)
        found = []
        for index, k in enumerate(budgets):
            name = f"chosen {k}"
            if name not in self.tracing.memory.tensors:
                self._keep({name: self._best(chosen, k, index, len(budgets))}, step=0)
                self.tell("swaps", index + 1, len(budgets))
            chosen = self.tracing.memory.tensors[name]
            found.append(chosen)
        return found

    def _scores(self) -> Float[Tensor, " component"]:
        n = len(self.tracing.components)
        return torch.stack([self.tracing.slopes(torch.full((n,), point))[1] for point in POINTS]).mean(0)

    def _best(self, fixed: Chosen, k: int, index: int, budgets: int) -> Chosen:
        """The best `k` components that hold the fixed ones, of all sets or of those that the search meets."""
        components = self.tracing.components
        if components.alike and math.comb(int((~fixed).sum()), k - int(fixed.sum())) <= max(1, self.exact):
            sets = _every(fixed, k)
            self.tell("gates", (index + 1) * self.steps, budgets * self.steps)
            return sets[int(self.tracing.values(sets).argmax())]
        m = self._climb(fixed, k, index, budgets)
        ranks = (m, self.scores / components.costs)
        starts = torch.stack([fitting(each, components, k, fixed) for each in ranks])
        return self._swapped(starts, fixed, k)

    def _climb(self, fixed: Chosen, k: int, index: int, budgets: int) -> Float[Tensor, " component"]:
        """Shares that cost `k`, after all steps; those that are fixed are 1."""
        memory, free, costs = self.tracing.memory, ~fixed, self.tracing.components.costs
        total = max(0.0, k - float(self.tracing.components.cost(fixed)))
        first = int(memory.facts["step"])
        m = memory.tensors["m"].clone() if first else fixed + free * (total / float(costs[free].sum()))
        for step in range(first, self.steps):
            value, slopes = self.tracing.slopes(m)
            pace = self.lr * (step + 1) / self.steps / slopes[free].abs().max().clamp(min=1e-12)
            m[free] = capped_simplex(m[free] + pace * slopes[free], total, costs[free])
            self._keep({"m": m}, step=step + 1)
            self.tell("gates", index * self.steps + step + 1, budgets * self.steps, effect=value)
        return m

    def _swapped(self, starts: Bool[Tensor, "start component"], fixed: Chosen, k: int) -> Chosen:
        """After `polish` tried exchanges, from the best start on; the most promising come first."""
        values, left = self.tracing.values(starts), self.polish
        chosen, value = starts[int(values.argmax())], float(values.max())
        while left > 0:
            for tried in self._swaps(chosen, fixed, k)[:left].split(ROUND):
                values = self.tracing.values(tried)
                left -= len(tried)
                if float(values.max()) > value + GAIN:
                    chosen, value = tried[int(values.argmax())], float(values.max())
                    break
            else:
                return chosen
        return chosen

    def _swaps(self, chosen: Chosen, fixed: Chosen, k: int) -> Bool[Tensor, "swap component"]:
        """At most `polish` sets: the most promising 2, 4, 8, ... components exchanged at once, then pairs by promise.

        What is promised is what the slopes at the hard set say, to first order.
        """
        _, slopes = self.tracing.slopes(chosen.float())
        if not self.tracing.components.alike:
            return self._dear_swaps(chosen, fixed, k, slopes / self.tracing.components.costs)
        leaving, coming = (chosen & ~fixed).nonzero()[:, 0], (~chosen).nonzero()[:, 0]
        leaving = leaving[slopes[leaving].argsort(stable=True)]
        coming = coming[slopes[coming].argsort(descending=True, stable=True)]
        n = min(len(leaving), len(coming))
        gainful = int((slopes[coming[:n]] > slopes[leaving[:n]]).sum())
        several = [_exchanged(chosen, leaving[:q], coming[:q]) for q in _powers(gainful)]
        promise = (slopes[coming][None] - slopes[leaving][:, None]).flatten()
        pairs = promise.argsort(descending=True, stable=True)[: max(0, self.polish - len(several))].tolist()
        at = [divmod(pair, len(coming)) for pair in pairs]
        single = [_exchanged(chosen, leaving[out : out + 1], coming[into : into + 1]) for out, into in at]
        return torch.stack([*several, *single])

    def _dear_swaps(self, chosen: Chosen, fixed: Chosen, k: int, slopes: Tensor) -> Bool[Tensor, "swap component"]:
        """The same where costs differ: each component from outside, the most promising first, for all that it takes.

        What promises least for its cost leaves until the new one fits; what then fits as well comes in too.
        """
        components = self.tracing.components
        found = []
        for new in slopes.masked_fill(chosen, -torch.inf).argsort(descending=True)[: self.polish].tolist():
            if chosen[new] or float(components.costs[new]) > components.left(fixed, k):
                continue
            held = fixed.clone().index_fill(0, torch.tensor([new]), True)
            others = slopes.masked_fill(~chosen, -torch.inf)
            kept = fitting(others, components, k, held) & (chosen | held)
            found.append(fitting(slopes, components, k, kept))
        return torch.stack(found) if found else chosen[None]

    def _keep(self, tensors: dict[str, Tensor], step: int) -> None:
        self.tracing.keep(tensors, step=step, passes=self.tracing.passes)


def _exchanged(chosen: Chosen, leaving: Tensor, coming: Tensor) -> Chosen:
    return chosen.index_fill(0, leaving, False).index_fill(0, coming, True)


def _powers(most: int) -> list[int]:
    """2, 4, 8, ... and `most` itself."""
    found = [2**power for power in range(1, most.bit_length()) if 2**power < most]
    return [*found, most] if most > 1 else []


def _every(fixed: Chosen, k: int) -> Bool[Tensor, "set component"]:
    """Every set of `k` components that holds the fixed ones."""
    free = (~fixed).nonzero()[:, 0].tolist()
    added = torch.tensor(list(combinations(free, k - int(fixed.sum()))))
    return fixed.repeat(len(added), 1).scatter(1, added, True)
