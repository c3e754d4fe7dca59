"""What the search of causal tracing is measured against: single effects, the greedy oracle, lots, the paper's gates."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.methods._tracing import Tracing, order
from subcircuit.progress import Progress

__all__ = ["by_lot", "by_singles", "greedily", "paper_step", "penalised"]

Chosen = Bool[Tensor, " component"]
Found = tuple[list[Chosen], Float[Tensor, " component"]]  # a set per budget, and the scores
THRESHOLD, START = 0.5, 0.5


def by_lot(tracing: Tracing, budgets: Sequence[int]) -> Found:
    """Components with the highest lots."""
    lots = torch.rand(len(tracing.components), generator=torch.Generator().manual_seed(tracing.settings.seed))
    tracing.keep({"scores": lots})
    return _top(lots, budgets), lots


def by_singles(tracing: Tracing, budgets: Sequence[int], tell: Progress) -> Found:
    """The components that move the metric most by themselves, each measured by a pass of its own."""
    n = len(tracing.components)
    tracing.require_room(n, f"one replacement of each of {n:,} components")
    if "scores" not in tracing.memory.tensors:
        scores = tracing.values(torch.eye(n, dtype=torch.bool))
        tracing.keep({"scores": scores}, passes=tracing.passes)
    tell("singles", n, n)
    scores = tracing.memory.tensors["scores"]
    return _top(scores, budgets), scores


def greedily(tracing: Tracing, budgets: Sequence[int], tell: Progress) -> Found:
    """One component after another, always the one that moves the metric most in the company of those before it.

    A component's score is what it added; 0 where it was not chosen.
    """
    n, most = len(tracing.components), max(budgets)
    tracing.require_room(sum(n - done for done in range(most)), f"a greedy walk to {most} of {n:,} components")
    memory = tracing.memory
    if "order" not in memory.tensors:
        tracing.keep({"order": torch.zeros(0, dtype=torch.long), "gains": torch.zeros(0)})
    while len(memory.tensors["order"]) < most:
        taken, gains = memory.tensors["order"], memory.tensors["gains"]
        chosen = torch.zeros(n, dtype=torch.bool).index_fill(0, taken, True)
        others = (~chosen).nonzero()[:, 0]
        values = tracing.values(chosen.repeat(len(others), 1).scatter(1, others[:, None], True))
        gain = values.max() - gains.sum()
        grown = {"order": torch.cat([taken, others[values.argmax()][None]]), "gains": torch.cat([gains, gain[None]])}
        tracing.keep(grown, passes=tracing.passes)
        tell("greedy", len(taken) + 1, most, effect=float(values.max()))
    taken = memory.tensors["order"]
    scores = torch.zeros(n).index_copy(0, taken, memory.tensors["gains"])
    return [torch.zeros(n, dtype=torch.bool).index_fill(0, taken[:k], True) for k in budgets], scores


def penalised(
    tracing: Tracing, budgets: Sequence[int], epochs: int, lr: float, penalty: float, tell: Progress
) -> Found:
    """The paper's search: for each budget the first epoch whose thresholded shares are no more than it allows.

    Where no epoch's are, those of the last. The sets need not be nested, and can be smaller than the budget.
    """
    memory, n = tracing.memory, len(tracing.components)
    if "m" not in memory.tensors:
        tracing.keep({"m": torch.full((n,), START), "sets": torch.zeros(0, n, dtype=torch.bool)}, epoch=0)
    while (epoch := int(memory.facts["epoch"])) < epochs and not (memory.tensors["sets"].sum(1) <= min(budgets)).any():
        m = memory.tensors["m"].clone().requires_grad_()
        optimiser = torch.optim.Adam([m], lr=lr)
        if "exp_avg" in memory.tensors:
            optimiser.state[m] = {name: memory.tensors[name].clone() for name in ("step", "exp_avg", "exp_avg_sq")}
        for rows in order(len(tracing.pairs), tracing.settings.seed, epoch).split(tracing.settings.batch):
            paper_step(tracing, m, optimiser, rows, penalty * (epoch + 1))
        sets = torch.cat([memory.tensors["sets"], (m.detach() >= THRESHOLD)[None]])
        state = {"m": m.detach(), "sets": sets, **optimiser.state[m]}
        tracing.keep(state, epoch=epoch + 1, passes=tracing.passes)
        tell("gates", epoch + 1, epochs, size=float(sets[-1].sum()))
    tell("gates", epochs, epochs)
    sets = memory.tensors["sets"]
    first = [(sets.sum(1) <= k).nonzero()[:1, 0].tolist() or [len(sets) - 1] for k in budgets]
    return [sets[epoch] for (epoch,) in first], memory.tensors["m"]


def paper_step(
    tracing: Tracing, m: Tensor, optimiser: torch.optim.Optimizer, rows: Tensor, penalty: float
) -> Float[Tensor, ""]:
    """One step on some rows: `mean 1/(1 + ell) + penalty (|m|_1 + m'(1 - m))`, then a clamp to [0, 1]; its loss."""
    replacing = tracing.replacing
    change = replacing.change(replacing.run(rows, tracing.components.gates(m)), rows, smooth=True)
    reward = (1 / (1 + replacing.relative(change))).mean()
    loss = reward + penalty * (m.sum() + (m * (1 - m)).sum())
    tracing.passes += len(rows)
    tracing.require_finite(loss)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    with torch.no_grad():
        m.clamp_(0, 1)
    return loss.detach()


def _top(scores: Float[Tensor, " component"], budgets: Sequence[int]) -> list[Chosen]:
    best = scores.sort(descending=True, stable=True).indices
    return [torch.zeros(len(scores), dtype=torch.bool).index_fill(0, best[:k], True) for k in budgets]
