"""The search of node pruning: gates learned under a budget, then a hard circuit. The state is kept after every step."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.circuit import Kept, tidy
from subcircuit.errors import Interrupted
from subcircuit.finishing import Finish, calibrate
from subcircuit.gates import Dual
from subcircuit.intervention import masking
from subcircuit.methods._descent import MOMENTS, Room, adam, moments, require_finite, seeded, step_rows
from subcircuit.methods._node_study import NodeStudy
from subcircuit.methods._plan import LogAlpha, Plan, by_site, schedule, worth
from subcircuit.methods._start import first_gates
from subcircuit.parallel.group import of_first
from subcircuit.progress import Progress
from subcircuit.sites import Kind, Site

__all__ = ["Search"]

SHARE, LEAST_SHARE = 0.6, 0.1  # of the budget for the prompts that gates are fitted to: at first, and at least
START: dict[str, Any] = {
    "step": 0,
    "round": 0,
    "base": 1.0,
    "average": None,
    "share": SHARE,
    "least": None,
    "pace": 1.0,
}
SLOWEST = 0.05  # of the learning rate, after steps too far
FAR = 1.5  # times the budget: from there the search goes back
DEARER = 1.2  # times the price, where unseen prompts break the budget
CHECK = 10  # steps between looks at validation prompts


class Search:
    """Gates, optimiser and dual variable; `run` goes on from wherever they are.

    Everything random is a function of the seed and the step, so that a resumed search takes the steps it would have.
    """

    def __init__(self, plan: Plan, study: NodeStudy, tell: Progress) -> None:
        self.plan, self.study, self.tell, self.checkpoint = plan, study, tell, study.memory
        if not self.checkpoint.tensors:
            self.checkpoint.facts |= START | {"kl": []}
            gates = first_gates(plan, study, tell)
            self._store(gates, "log_alpha")
            self._store({kind: torch.ones_like(value, dtype=torch.bool) for kind, value in gates.items()}, "allowed")
        self.log_alpha = {kind: self._tensor(kind, "log_alpha").requires_grad_() for kind in plan.kinds}
        self.allowed = {kind: self._tensor(kind, "allowed") for kind in plan.kinds}
        self.optimiser, self.dual = self._optimiser(), Dual(1.0)
        self.room = Room(plan.batch)

    def run(self, index: int, budget: float) -> None:
        """The steps of round `index`: the budget's first step to its last."""
        if self.checkpoint.facts["round"] > index:
            return
        steps = self.plan.steps if index == 0 else max(1, self.plan.steps // 2)
        first, base, average = (self.checkpoint.facts[name] for name in ("step", "base", "average"))
        share = self.checkpoint.facts["share"]
        self.optimiser, self.dual = self._optimiser(), Dual(self.plan.size or share * budget, base, average=average)
        try:
            for step in range(first, steps):
                self.optimiser.param_groups[0]["lr"] = (
                    self.plan.lr * schedule(step, steps) * self.checkpoint.facts["pace"]
                )
                facts = self.step(index * self.plan.steps + step)
                if self._budgeted and (step + 1 == steps or (step + 1) % CHECK == 0):
                    facts["held_out"] = self._check(budget)
                self._keep(step + 1, index)
                self.tell("gates", step + 1, steps, **facts)
        except KeyboardInterrupt as stop:
            if self.study.path is None:
                raise
            done = self.checkpoint.facts["step"]
            raise Interrupted(f"stopped after step {done} of {steps}", "go on with --resume") from stop
        self.dual = Dual(budget)
        self._keep(0, index + 1)

    def _check(self, budget: float) -> float:
        """Look at the gates as a hard circuit on the validation prompts, and return their KL.

        The least circuit that fits the budget is remembered, and gone back to from far outside it. Prompts that gates
        are fitted to come out below unseen ones; by how much says which share of the budget is theirs.
        """
        facts, scores = self.checkpoint.facts, by_site(self._scores())
        hard = tidy({site: score > 0 for site, score in scores.items()})
        kl, cost = self.study.validation.kl(hard), self.cost(hard)
        if kl <= budget and (facts["least"] is None or cost < facts["least"]):
            facts["least"], facts["pace"] = cost, min(1.0, 1.25 * facts["pace"])
            self._store(self.log_alpha, "least")
        elif kl > FAR * budget and facts["least"] is not None:
            facts["pace"] = max(SLOWEST, 0.5 * facts["pace"])
            self._return()
        if kl > budget:
            self.dual.base *= DEARER
        fitted = (self.dual.average or 0.0) / max(kl, 1e-9)
        facts["share"] = min(1.0, max(LEAST_SHARE, (facts["share"] + fitted) / 2))
        self.dual.budget = facts["share"] * budget
        return kl

    def _return(self) -> None:
        """Go back to the least circuit that fitted, and stand still there."""
        for kind, value in self.log_alpha.items():
            value.data.copy_(self._tensor(kind, "least"))
            if value in self.optimiser.state:
                self.optimiser.state[value]["exp_avg"].zero_()

    @property
    def _budgeted(self) -> bool:
        return self.plan.size is None and not self.plan.penalties

    def _scores(self) -> LogAlpha:
        """The gates, those of earlier rounds' closed nodes below all others."""
        shut = -self.plan.relaxation.limit - 2
        return {kind: value.detach().masked_fill(~self.allowed[kind], shut) for kind, value in self.log_alpha.items()}

    def circuit(self, index: int, budget: float) -> tuple[Kept, dict[Site, Float[Tensor, " unit"]], float]:
        """The hard circuit of round `index`, its scores, and its KL on the validation prompts.

        Later rounds keep only what it keeps. It is remembered, for they move the gates that it was read from.
        """
        kls = self.checkpoint.facts["kl"]
        if index == len(kls):
            hard, gates, kl = self._hardened(budget)
            for kind, allowed in self.allowed.items():
                allowed &= torch.stack([hard[Site(layer, kind)] for layer in range(len(allowed))])
            self._store(self.allowed, "allowed")
            self._store(self.allowed, f"kept {index}")
            self._store(gates, f"scores {index}")
            kls.append(kl)
            self.checkpoint.facts |= {"least": None, "pace": 1.0}
            self._store(self.log_alpha, "log_alpha")
            self.study.keep({})
        kept, scores = (
            by_site({kind: self._tensor(kind, f"{what} {index}") for kind in self.plan.kinds})
            for what in ("kept", "scores")
        )
        return kept, scores, float(kls[index])

    def _hardened(self, budget: float) -> tuple[Kept, LogAlpha, float]:
        """The gates as they are, made hard."""
        plan, validation, limit = self.plan, self.study.validation, self.plan.relaxation.limit
        sites = by_site(self._scores())
        self.tell("threshold", 0, 1)
        kept: Kept
        if plan.penalties:
            kept = tidy({site: score > 0 for site, score in sites.items()})
        elif plan.size is not None:
            size = plan.size
            kept = calibrate(sites, lambda kept: self.cost(kept) <= size, limit=limit, tries=20, largest=True)
        else:
            kept = self._within(budget)
        return kept, worth(self._scores()), validation.kl(kept)

    def _within(self, budget: float) -> Kept:
        """The smaller of the circuits that the last gates and the least ones give under the budget, polished."""
        validation, tries = self.study.validation, self.plan.polish
        finish = Finish(budget, by_site(self.allowed), validation, self.plan.relaxation.limit, self.tell)
        last = finish.threshold(by_site(self._scores()))
        if self.checkpoint.facts["least"] is not None:
            gates = {kind: value.detach().clone() for kind, value in self.log_alpha.items()}
            self._return()
            least = finish.threshold(by_site(self._scores()))
            if self.cost(last) <= self.cost(least):
                for kind, value in self.log_alpha.items():
                    value.data.copy_(gates[kind])
            else:
                last = least
        return finish.polish(last, by_site(self._scores()), tries=tries)

    def step(self, step: int) -> dict[str, float]:
        """One optimisation step on the rows of this step; returns loss, KL, size and price as they were before it."""
        plan, price = self.plan, self.dual.price
        p = {kind: plan.relaxation.p_open(value) * self.allowed[kind] for kind, value in self.log_alpha.items()}
        cost = self.study.prices.expected(p)
        if plan.penalties:
            target, weight = torch.stack([each * p[kind].mean() for kind, each in plan.penalties.items()]).sum(), 1.0
        else:
            # the two weights sum to 1: Adam would answer a price that falls by smaller steps
            weight = (1.0 if plan.size is not None else price) / (1 + price)
            target = (1 - weight) * 2 * cost.sqrt()  # a node of a small circuit is worth more than one of a large one
        self.optimiser.zero_grad()
        target.backward()
        kl = self._add_slopes(step, weight)
        loss = float(target.detach()) + weight * kl
        require_finite(step, loss, self.log_alpha.values())
        self.optimiser.step()
        for name, value in of_first(self._named).items():  # machines of two makes round differently
            self.log_alpha[Kind(name)].data.copy_(value)
        for value in self.log_alpha.values():
            plan.relaxation.clamp_(value)
        size = float(cost.detach())
        self.dual.update(size if plan.size is not None else kl)
        return {"loss": loss, "kl": kl, "size": size, "price": price}

    def _add_slopes(self, step: int, weight: float) -> float:
        """Add the gradient of `weight * KL` over this step's rows to the gates' own, and return KL."""
        plan, study = self.plan, self.study

        def run(some: Tensor) -> Tensor:
            noise = seeded(plan.seed, step)  # the same in each part of the batch
            gates = {kind: plan.relaxation(value, noise) * self.allowed[kind] for kind, value in self.log_alpha.items()}
            with masking(study.subject, by_site(gates), study.corrupted(some)):
                return study.subject.logits(study.pairs.clean[some])

        rows = step_rows(len(study.pairs), plan.batch, plan.seed, step)
        return self.room.add_slopes(list(self.log_alpha.values()), weight, study.full, study.pairs.clean, rows, run)

    @property
    def _named(self) -> dict[str, Tensor]:
        return {str(kind): value for kind, value in self.log_alpha.items()}

    def _optimiser(self) -> torch.optim.Adam:
        return adam(self._named, self.checkpoint.tensors, self.plan.lr)

    def _keep(self, step: int, index: int) -> None:
        """Remember this moment; on disk where there is a folder."""
        self._store(self.log_alpha, "log_alpha")
        if step:
            self.checkpoint.tensors |= moments(self._named, self.optimiser)
        else:  # a new round starts with a fresh optimiser
            kept = self.checkpoint.tensors.items()
            self.checkpoint.tensors = {name: value for name, value in kept if not name.endswith(MOMENTS)}
        self.checkpoint.facts |= {"step": step, "round": index, "base": self.dual.base, "average": self.dual.average}
        self.study.keep({})

    def cost(self, kept: Kept) -> float:
        """The share of the whole model's cost that a hard circuit has."""
        layers = range(len(self.study.subject))
        hard = {kind: torch.stack([kept[Site(layer, kind)] for layer in layers]).float() for kind in self.plan.kinds}
        return float(self.study.prices.expected(hard))

    def _tensor(self, kind: Kind, name: str) -> Tensor:
        return self.checkpoint.tensors[f"{kind}.{name}"].clone()

    def _store(self, values: Mapping[Kind, Tensor], name: str) -> None:
        self.checkpoint.tensors |= {f"{kind}.{name}": value.detach().clone() for kind, value in values.items()}
