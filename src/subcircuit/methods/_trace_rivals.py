"""What the search of causal tracing is measured against: single effects, the greedy oracle, lots, the paper's gates.

And a mask in the manner of desiderata-based component masking (DCM: Davies et al. 2023, arXiv 2307.03637): from nothing
replaced, Adam on clamped shares climbs the reward itself under one L1 penalty that stays as it is. Departs from it: in
place of rounding, which holds no budget, the k largest shares are taken.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.methods._components import fitting
from subcircuit.methods._tracing import Tracing, order
from subcircuit.progress import Progress

__all__ = ["by_lot", "by_mask", "by_singles", "greedily", "paper_step", "penalised"]

Chosen = Bool[Tensor, " component"]
Found = tuple[list[Chosen], Float[Tensor, " component"]]  # a set per budget, and the scores
THRESHOLD, START = 0.5, 0.5


def by_lot(tracing: Tracing, budgets: Sequence[int]) -> Found:
    """Components with the highest lots."""
    lots = torch.rand(len(tracing.components), generator=torch.Generator().manual_seed(tracing.settings.seed))
    tracing.keep({"scores": lots})
    return _top(tracing, lots, budgets), lots


def by_singles(tracing: Tracing, budgets: Sequence[int], tell: Progress) -> Found:
    """The components that move the metric most by themselves, for what they cost, each measured by its own pass."""
    n = len(tracing.components)
    tracing.require_room(n, f"one replacement of each of {n:,} components")
    if "scores" not in tracing.memory.tensors:
        scores = tracing.values(torch.eye(n, dtype=torch.bool))
        tracing.keep({"scores": scores}, passes=tracing.passes)
    tell("singles", n, n)
    scores = tracing.memory.tensors["scores"]
    return _top(tracing, scores / tracing.components.costs, budgets), scores


def greedily(tracing: Tracing, budgets: Sequence[int], tell: Progress) -> Found:
    """One component after another, always the one that moves the metric most in the company of those before it.

    Where costs differ, the one that fits and moves it most for its cost. A component's score is what it added; 0 where
    it was not chosen.
    """
    n, most, components = len(tracing.components), max(budgets), tracing.components
    steps = most if components.alike else int((components.costs.sort().values.cumsum(0) <= most).sum())
    tracing.require_room(sum(n - done for done in range(steps)), f"a greedy walk to {most} of {n:,} components")
    memory = tracing.memory
    if "order" not in memory.tensors:
        tracing.keep({"order": torch.zeros(0, dtype=torch.long), "gains": torch.zeros(0)})
    while True:
        taken, gains = memory.tensors["order"], memory.tensors["gains"]
        chosen = torch.zeros(n, dtype=torch.bool).index_fill(0, taken, True)
        others = (~chosen & (components.costs <= components.left(chosen, most))).nonzero()[:, 0]
        if not len(others):
            break
        values = tracing.values(chosen.repeat(len(others), 1).scatter(1, others[:, None], True))
        added = values - gains.sum()
        best = int((added / components.costs[others]).argmax())
        grown = {"order": torch.cat([taken, others[[best]]]), "gains": torch.cat([gains, added[[best]]])}
        tracing.keep(grown, passes=tracing.passes)
        tell("greedy", len(taken) + 1, steps, effect=float(values[best]))
    tell("greedy", steps, steps)
    taken = memory.tensors["order"]
    scores = torch.zeros(n).index_copy(0, taken, memory.tensors["gains"])
    early = torch.full((n,), -torch.inf).index_copy(0, taken, -torch.arange(len(taken), dtype=torch.float))
    return [fitting(early, components, k) & early.isfinite() for k in budgets], scores


def penalised(
    tracing: Tracing, budgets: Sequence[int], epochs: int, lr: float, penalty: float, tell: Progress
) -> Found:
    """The paper's search: for each budget the first epoch whose thresholded shares are no more than it allows.

    Where no epoch's are, those of the last. The sets need not be nested, and can be smaller than the budget.
    """
    memory, n = tracing.memory, len(tracing.components)
    if "m" not in memory.tensors:
        tracing.keep({"m": torch.full((n,), START), "sets": torch.zeros(0, n, dtype=torch.bool)}, epoch=0)
    while (epoch := int(memory.facts["epoch"])) < epochs and not (_cost(tracing) <= min(budgets)).any():
        m, optimiser = _adam(tracing, lr)
        for rows in order(len(tracing.pairs), tracing.settings.seed, epoch).split(tracing.settings.batch):
            paper_step(tracing, m, optimiser, rows, penalty * (epoch + 1))
        sets = torch.cat([memory.tensors["sets"], (m.detach() >= THRESHOLD)[None]])
        state = {"m": m.detach(), "sets": sets, **optimiser.state[m]}
        tracing.keep(state, epoch=epoch + 1, passes=tracing.passes)
        tell("gates", epoch + 1, epochs, size=float(sets[-1].sum()))
    tell("gates", epochs, epochs)
    sets = memory.tensors["sets"]
    first = [(_cost(tracing) <= k).nonzero()[:1, 0].tolist() or [len(sets) - 1] for k in budgets]
    return [sets[epoch] for (epoch,) in first], memory.tensors["m"]


def by_mask(tracing: Tracing, budgets: Sequence[int], steps: int, lr: float, penalty: float, tell: Progress) -> Found:
    """The largest shares after `steps` of Adam on `-mean change + penalty |m|_1`, clamped to [0, 1], all pairs a step.

    Shares that stand at a limit together are told apart by the slope of the change there.
    """
    memory, n = tracing.memory, len(tracing.components)
    if "m" not in memory.tensors:
        tracing.keep({"m": torch.zeros(n), "slopes": torch.zeros(n)}, epoch=0)
    while (step := int(memory.facts["epoch"])) < steps:
        m, optimiser = _adam(tracing, lr)
        change, slopes = tracing.slopes(m)
        m.grad = penalty * tracing.components.costs - slopes
        optimiser.step()
        state = {"m": m.detach().clamp(0, 1), "slopes": slopes, **optimiser.state[m]}
        tracing.keep(state, epoch=step + 1, passes=tracing.passes)
        tell("gates", step + 1, steps, effect=change)
    tell("gates", steps, steps)
    m, slopes = memory.tensors["m"], memory.tensors["slopes"]
    ties = 1e-3 * slopes / slopes.abs().max().clamp(min=1e-12)
    return _top(tracing, m + ties, budgets), m


def paper_step(
    tracing: Tracing, m: Tensor, optimiser: torch.optim.Optimizer, rows: Tensor, penalty: float
) -> Float[Tensor, ""]:
    """One step on some rows: `mean 1/(1 + ell) + penalty (|m|_1 + m'(1 - m))`, then a clamp to [0, 1]; its loss.

    Where costs differ, a component's penalties are multiplied by its own.
    """
    replacing = tracing.replacing
    change = replacing.change(replacing.run(rows, tracing.components.gates(m)), rows, smooth=True)
    reward = (1 / (1 + replacing.relative(change))).mean()
    loss = reward + penalty * (tracing.components.costs * (m + m * (1 - m))).sum()
    tracing.passes += len(rows)
    tracing.require_finite(loss)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    with torch.no_grad():
        m.clamp_(0, 1)
    return loss.detach()


def _adam(tracing: Tracing, lr: float) -> tuple[Tensor, torch.optim.Optimizer]:
    """The shares of the memory and their optimiser, in the state of the memory."""
    known = tracing.memory.tensors
    m = known["m"].clone().requires_grad_()
    optimiser = torch.optim.Adam([m], lr=lr)
    if "exp_avg" in known:
        optimiser.state[m] = {name: known[name].clone() for name in ("step", "exp_avg", "exp_avg_sq")}
    return m, optimiser


def _cost(tracing: Tracing) -> Float[Tensor, " epoch"]:
    return tracing.components.cost(tracing.memory.tensors["sets"])


def _top(tracing: Tracing, scores: Float[Tensor, " component"], budgets: Sequence[int]) -> list[Chosen]:
    return [fitting(scores, tracing.components, k) for k in budgets]
