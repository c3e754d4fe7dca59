"""The way back for gates that have broken their budget and cannot mend it.

An edge has a gradient only while the rest of some path through it is open. Gates that nothing tells apart are closed
together; if that cuts every path, KL stays far above the budget at any price. Then the search goes back to the last
gates that were within it, and on from there at half the pace. A search that never breaks its budget by far is left
alone.
"""

import math
from dataclasses import dataclass

__all__ = ["Retreat"]

FAR = 2.0  # times the budget
PATIENCE = 15  # steps that far above it, without
FALL = 0.8  # of the highest KL since it last fell so much


@dataclass
class Retreat:
    """Watches KL step by step."""

    budget: float = math.inf  # nats; infinite = never back
    pace: float = 1.0  # share of the learning rate
    mark: float = 0.0  # nats that KL must fall below `FALL` of
    waited: int = 0  # steps since it did, far above the budget

    def watch(self, kl: float, average: float) -> bool:
        """Take one step's KL and its moving average in; returns whether its gates are within the budget."""
        if average <= FAR * self.budget or average < FALL * self.mark:
            self.mark, self.waited = average, 0
        else:
            self.mark, self.waited = max(self.mark, average), self.waited + 1
        return max(kl, average) <= self.budget

    @property
    def trapped(self) -> bool:
        return self.waited >= PATIENCE

    def back(self) -> None:
        """Start anew from gates that are within the budget, at half the pace."""
        self.pace, self.mark, self.waited = self.pace / 2, 0.0, 0
