"""The search of edge pruning: a gate for every edge, learned under a budget. The state is kept after every step."""

import math
from collections.abc import Callable
from typing import Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit import metrics
from subcircuit.edge_gradients import edge_attribution, passes
from subcircuit.edges import rewired, rewired_logits
from subcircuit.gates import Dual, HardConcrete, Relaxation
from subcircuit.methods._descent import MOMENTS, Room, adam, moments, require_finite, seeded, step_rows
from subcircuit.methods._edge_study import EdgeStudy, Table
from subcircuit.methods._plan import ranked, schedule
from subcircuit.methods._retreat import Retreat
from subcircuit.methods._study import Settings
from subcircuit.progress import Progress

__all__ = ["EdgePlan", "EdgeSearch"]

MARGIN = 0.6  # of the budget, for the prompts that the gates are fitted to: unseen ones come out above it
ALL_OPEN = 3.0  # log_alpha
AJAR = -1.0  # the lowest a gate starts: edges of a node that is shut on both sides would have no gradient
SHARES = (0.01, 0.03, 0.1, 0.3, 0.6)  # of the edges, from which a search may start
SAFE = ".safe"  # marks the gates to go back to
RANKING = 64  # pairs that are enough to rank by; the gates see all


class EdgePlan(Settings, Protocol):
    """The settings of a search."""

    @property
    def kl(self) -> float: ...
    @property
    def size(self) -> float | None: ...
    @property
    def steps(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def gates(self) -> str: ...
    @property
    def writers(self) -> bool: ...
    @property
    def warm_start(self) -> int: ...
    @property
    def open(self) -> float: ...


class EdgeSearch:
    """Gates, optimiser and dual variable; `run` goes on from wherever they are.

    Everything random is a function of the seed and the step, so that a resumed search takes the steps it would have.
    """

    def __init__(self, plan: EdgePlan, study: EdgeStudy, tell: Progress) -> None:
        self.plan, self.study, self.tell = plan, study, tell
        self.relaxation = HardConcrete(cast(Relaxation, plan.gates))
        self.writer_of = study.wiring.allowed.nonzero()[:, 1]  # of every edge
        tell("references", 0, 1)
        self.reference = study.reference(study.pairs)
        everything = study.wiring.allowed.float()
        self.full = rewired_logits(
            study.subject, study.wiring, study.pairs.clean, everything, self.reference, batch_size=plan.batch
        )
        tell("references", 1, 1)
        self.names = ["edge", "writer"] if plan.writers else ["edge"]
        if not study.memory.tensors:
            start = self._start()
            safe = {name + SAFE: value for name, value in start.items()}
            study.keep(start | safe, step=0, base=1.0, average=math.nan, pace=1.0, mark=0.0, waited=0)
        self.log_alpha = {name: self._tensor(name).requires_grad_() for name in self.names}
        self.room = Room(plan.batch)

    def run(self) -> Table:
        """The steps that are left. Returns every edge's log_alpha: the lower of its own and its writer's."""
        memory, steps = self.study.memory, self.plan.steps
        goal = self.plan.size or MARGIN * self.plan.kl
        optimiser, dual, retreat = self._optimiser(), self._dual(goal), self._retreat()
        for step in range(memory.facts["step"], steps):
            optimiser.param_groups[0]["lr"] = self.plan.lr * retreat.pace * schedule(step, steps)
            before = self._gates(SAFE)
            facts = self.step(step, optimiser, dual)
            if retreat.watch(facts["kl"], cast(float, dual.average)):
                memory.tensors |= before
            if retreat.trapped:
                self._go_back()
                retreat.back()
                optimiser, dual = self._optimiser(), Dual(goal)
            self._keep(step + 1, optimiser, dual, retreat)
            self.tell("gates", step + 1, steps, **facts)
        if retreat.waited:
            self._go_back()
        least = self._by_edge(lambda log_alpha: log_alpha.detach(), torch.minimum)
        return self._table(least)

    def step(self, step: int, optimiser: torch.optim.Adam, dual: Dual) -> dict[str, float]:
        """One optimisation step on the rows of this step; returns loss, KL, size and price as they were before it."""
        price, sized = dual.price, self.plan.size is not None
        share = self._by_edge(self.relaxation.p_open, torch.mul).mean()
        weight = (1.0 if sized else price) / (1 + price)  # the two sum to 1, for the steps of Adam know no scale
        target = (1 - weight) * share.log()  # halving a small circuit is worth as much as halving a large one
        optimiser.zero_grad()
        target.backward()
        kl = self._add_slopes(step, weight)
        loss = float(target.detach()) + weight * kl
        require_finite(step, loss, self.log_alpha.values())
        optimiser.step()
        for value in self.log_alpha.values():
            self.relaxation.clamp_(value)
        size = float(share.detach())
        dual.update(size if sized else kl)
        return {"loss": loss, "kl": kl, "size": size, "price": price}

    def _add_slopes(self, step: int, weight: float) -> float:
        """Add the gradient of `weight * KL` over this step's rows to the gates' own, and return KL."""
        plan, study = self.plan, self.study

        def run(some: Tensor) -> Tensor:
            noise = seeded(plan.seed, step)  # the same in each part of the batch
            table = self._table(self._by_edge(lambda log_alpha: self.relaxation(log_alpha, noise), torch.mul))
            with rewired(study.subject, study.wiring, table, self.reference(some)):
                return study.subject.logits(study.pairs.clean[some])

        rows = step_rows(len(study.pairs), plan.batch, plan.seed, step)
        return self.room.add_slopes(list(self.log_alpha.values()), weight, self.full, study.pairs.clean, rows, run)

    def _by_edge(
        self, of: Callable[[Tensor], Tensor], both: Callable[[Tensor, Tensor], Tensor]
    ) -> Float[Tensor, " edge"]:
        """Something of every edge's gate, combined with the same of its writer's where writers have gates."""
        own = of(self.log_alpha["edge"])
        return both(own, of(self.log_alpha["writer"])[self.writer_of]) if self.plan.writers else own

    def _table(self, by_edge: Float[Tensor, " edge"]) -> Table:
        allowed = self.study.wiring.allowed
        return torch.zeros(allowed.shape).masked_scatter(allowed, by_edge)

    def _start(self) -> dict[str, Tensor]:
        """Gates at their first values: all open, or the best by integrated gradients of KL."""
        plan = self.plan
        start = {"edge": torch.full(self.writer_of.shape, ALL_OPEN)}
        if plan.writers:
            start["writer"] = torch.full((len(self.study.wiring.writers),), ALL_OPEN)
        if plan.warm_start:
            score = self._attribution()[self.study.wiring.allowed].abs()
            shares = [plan.open] if plan.open else SHARES
            rungs = [ranked(score[None], share)[0].clamp(min=AJAR) for share in shares]
            rungs.append(torch.where(score > 0, ALL_OPEN, AJAR))  # saturated attention leaves traces of a gradient
            for rung in rungs:
                if plan.open or plan.size is not None or self._start_kl(rung) <= plan.kl:
                    start["edge"] = rung
                    break
        return start

    def _start_kl(self, log_alpha: Float[Tensor, " edge"]) -> float:
        """KL of the relaxed gates on a few discovery pairs."""
        rows = torch.arange(min(2 * self.plan.batch, len(self.study.pairs)))
        table = self._table(self.relaxation(log_alpha, seeded(self.plan.seed)))
        prompts, wiring = self.study.pairs.clean[rows], self.study.wiring
        size = self.plan.batch
        logits = rewired_logits(self.study.subject, wiring, prompts, table, self.reference, batch_size=size)
        return float(metrics.kl(self.full[rows], logits).mean())

    def _attribution(self) -> Table:
        plan, study = self.plan, self.study
        rows = torch.arange(min(RANKING, len(study.pairs)))
        done, total = 0, passes(study.subject, "inputs", plan.warm_start) * len(rows)

        def told(prompts: int) -> None:
            nonlocal done
            done = min(done + prompts, total)  # a batch that ran out of memory is counted again
            self.tell("attribution", done, total)

        return edge_attribution(
            study.subject,
            study.wiring,
            study.pairs[rows],
            self.reference,
            objective="kl",
            path="inputs",
            steps=plan.warm_start,
            batch_size=plan.batch,
            on_step=told,
        )

    def _keep(self, done: int, optimiser: torch.optim.Adam, dual: Dual, retreat: Retreat) -> None:
        """All that the next step starts from."""
        average = math.nan if dual.average is None else dual.average
        watched = {"pace": retreat.pace, "mark": retreat.mark, "waited": retreat.waited}
        self.study.keep(
            self._gates() | moments(self.log_alpha, optimiser), step=done, base=dual.base, average=average, **watched
        )

    def _gates(self, suffix: str = "") -> dict[str, Tensor]:
        return {name + suffix: value.detach().clone() for name, value in self.log_alpha.items()}

    def _dual(self, goal: float) -> Dual:
        base, average = self.study.memory.facts["base"], self.study.memory.facts["average"]
        return Dual(goal, base, average=None if math.isnan(average) else average)

    def _retreat(self) -> Retreat:
        """None from a target size: KL may be anything."""
        facts = self.study.memory.facts
        budget = self.plan.kl if self.plan.size is None else math.inf
        return Retreat(budget, facts["pace"], facts["mark"], facts["waited"])

    def _go_back(self) -> None:
        """To the last gates that were within the budget, or the first ones, without moments."""
        for name, value in self.log_alpha.items():
            value.data.copy_(self._tensor(name + SAFE))
            for key in MOMENTS:
                self.study.memory.tensors.pop(f"{name}.{key}", None)

    def _optimiser(self) -> torch.optim.Adam:
        return adam(self.log_alpha, self.study.memory.tensors, self.plan.lr)

    def _tensor(self, name: str) -> Tensor:
        return self.study.memory.tensors[name].clone()
