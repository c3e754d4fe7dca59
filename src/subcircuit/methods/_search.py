"""The search of node pruning: gates learned under a budget, then a hard circuit. The state is kept after every step."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit import metrics
from subcircuit.batching import batched
from subcircuit.checkpoint import Checkpoint
from subcircuit.circuit import Kept, tidy
from subcircuit.errors import Interrupted, NumericalError
from subcircuit.finishing import calibrate, polish
from subcircuit.gates import Dual
from subcircuit.gradients import attribution, coarsen
from subcircuit.intervention import masking
from subcircuit.methods._plan import COARSE_START, FINE_START, Plan, Study, ranked, schedule
from subcircuit.progress import Progress
from subcircuit.sites import Kind, Site

__all__ = ["LogAlpha", "Search"]

LogAlpha = dict[Kind, Float[Tensor, "layer unit"]]

BETAS = (0.9, 0.98)  # of Adam: prices change within tens of steps, and so do the gradients' sizes
MARGIN = 0.6  # of the budget, for the prompts that the gates are fitted to: unseen ones come out above them


class Search:
    """Gates, optimiser and dual variable; `run` goes on from wherever they are.

    Everything random is a function of the seed and the step, so that a resumed search takes the steps it would have.
    """

    def __init__(
        self, plan: Plan, study: Study, settings: Mapping[str, Any], folder: Path | None, tell: Progress
    ) -> None:
        self.plan, self.study, self.tell = plan, study, tell
        self.path = folder / "search.safetensors" if folder else None
        found = Checkpoint.load(self.path, settings) if self.path else None
        start: dict[str, Any] = {"step": 0, "round": 0, "price": 1.0, "average": None, "kl": []}
        self.checkpoint = found or Checkpoint(settings, facts=start)
        if found is None:
            self._start()
        self.log_alpha = {kind: self._tensor(kind, "log_alpha").requires_grad_() for kind in plan.kinds}
        self.allowed = {kind: self._tensor(kind, "allowed") for kind in plan.kinds}
        self.optimiser, self.dual = self._optimiser(), Dual(1.0)
        self.room = plan.batch  # pairs that fit in memory at once

    def run(self, index: int, budget: float) -> None:
        """The steps of round `index`: the budget's first step to its last."""
        if self.checkpoint.facts["round"] > index:
            return
        steps = self.plan.steps if index == 0 else max(1, self.plan.steps // 2)
        first, price, average = (self.checkpoint.facts[name] for name in ("step", "price", "average"))
        self.optimiser, self.dual = self._optimiser(), Dual(self.plan.size or MARGIN * budget, price, average=average)
        try:
            for step in range(first, steps):
                self.optimiser.param_groups[0]["lr"] = self.plan.lr * schedule(step, steps)
                facts = self.step(index * self.plan.steps + step)
                self._keep(step + 1, index)
                self.tell("gates", step + 1, steps, **facts)
        except KeyboardInterrupt as stop:
            if self.path is None:
                raise
            done = self.checkpoint.facts["step"]
            raise Interrupted(f"stopped after step {done} of {steps}", "go on with --resume") from stop
        self.dual = Dual(budget)
        self._keep(0, index + 1)

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
            self._save()
        kept, scores = (
            self._by_site({kind: self._tensor(kind, f"{what} {index}") for kind in self.plan.kinds})
            for what in ("kept", "scores")
        )
        return kept, scores, float(kls[index])

    def _hardened(self, budget: float) -> tuple[Kept, LogAlpha, float]:
        """The gates as they are, made hard."""
        plan, study = self.plan, self.study
        limit = plan.relaxation.limit
        scores = {
            kind: value.detach().masked_fill(~self.allowed[kind], -limit - 2) for kind, value in self.log_alpha.items()
        }
        sites = self._by_site(scores)
        self.tell("threshold", 0, 1)
        if plan.penalties:
            kept = tidy({site: score > 0 for site, score in sites.items()})
        elif plan.size is not None:
            size = plan.size
            kept = calibrate(sites, lambda kept: self.cost(kept) <= size, limit=limit, tries=20, largest=True)
        else:
            kept = calibrate(sites, lambda kept: study.validation.kl(kept) <= budget, limit=limit)
            allowed = self._by_site(self.allowed)
            kept = polish(kept, allowed, study.validation, budget, tries=plan.polish, tell=self.tell)
        return kept, scores, study.validation.kl(kept)

    def step(self, step: int) -> dict[str, float]:
        """One optimisation step on the rows of this step; returns loss, KL, size and price as they were before it."""
        plan, rows, price = self.plan, self._rows(step), self.dual.price
        p = {kind: plan.relaxation.p_open(value) * self.allowed[kind] for kind, value in self.log_alpha.items()}
        cost = self.study.prices.expected(p)
        if plan.penalties:
            target, weight = torch.stack([each * p[kind].mean() for kind, each in plan.penalties.items()]).sum(), 1.0
        else:
            # the two weights sum to 1: Adam would answer a price that falls by smaller steps
            weight = (1.0 if plan.size is not None else price) / (1 + price)
            target = (1 - weight) * cost
        self.optimiser.zero_grad()
        target.backward()
        kl = self._add_slopes(step, rows, weight)
        loss = float(target.detach()) + weight * kl
        self._require_finite(step, loss)
        self.optimiser.step()
        for value in self.log_alpha.values():
            plan.relaxation.clamp_(value)
        size = float(cost.detach())
        self.dual.update(size if plan.size is not None else kl)
        return {"loss": loss, "kl": kl, "size": size, "price": price}

    def _add_slopes(self, step: int, rows: Tensor, weight: float) -> float:
        """Add the gradient of `weight * KL` over these rows to the gates' own, and return KL; in parts if need be."""
        plan, study, leaves = self.plan, self.study, list(self.log_alpha.values())
        found = []

        def part(which: Tensor) -> None:
            some = rows[which]
            generator = torch.Generator().manual_seed(hash((plan.seed, step)) % (1 << 63))  # the same noise in each
            gates = {
                kind: plan.relaxation(value, generator) * self.allowed[kind] for kind, value in self.log_alpha.items()
            }
            with masking(study.subject, self._by_site(gates), study.reference(some)):
                logits = study.subject.logits(study.pairs.clean[some])
            kl = metrics.kl(study.full[some].to(logits.device), logits).sum() / len(rows)
            slopes = torch.autograd.grad(weight * kl, leaves)
            for leaf, slope in zip(leaves, slopes, strict=True):
                leaf.grad = slope if leaf.grad is None else leaf.grad + slope
            found.append(float(kl.detach()))

        self.room = batched(part, study.pairs.clean.lengths[rows], min(self.room, len(rows)))
        return sum(found)

    def _require_finite(self, step: int, loss: float) -> None:
        slopes = [value.grad for value in self.log_alpha.values() if value.grad is not None]
        if not math.isfinite(loss) or not all(slope.isfinite().all() for slope in slopes):
            what = "gradient of the gates is not finite" if math.isfinite(loss) else f"loss is {loss}"
            raise NumericalError(
                f"the {what} at step {step + 1}",
                "the state of the step before is kept; start again with float32 weights or a smaller --lr",
            )

    def _start(self) -> None:
        """Gates at their first values: all open, or ranked by integrated gradients of KL."""
        plan, subject = self.plan, self.study.subject
        shape = {kind: (len(subject), subject.units(kind)) for kind in plan.kinds}
        start = {kind: torch.full(shape[kind], COARSE_START.get(kind, FINE_START)) for kind in plan.kinds}
        if plan.warm_start and not COARSE_START.keys() >= set(plan.kinds):
            scores = self._attribution()
            for kind in plan.kinds:
                if kind not in COARSE_START:
                    stacked = torch.stack([scores[Site(layer, kind)] for layer in range(len(subject))])
                    start[kind] = ranked(stacked.abs(), plan.share)
        self._store(start, "log_alpha")
        self._store({kind: torch.ones(shape[kind], dtype=torch.bool) for kind in plan.kinds}, "allowed")

    def _attribution(self) -> dict[Site, Float[Tensor, " unit"]]:
        plan, study = self.plan, self.study
        rows = torch.arange(min(64, len(study.pairs)))  # enough to rank by; the gates see all pairs
        done = 0

        def told(prompts: int) -> None:
            nonlocal done
            done += prompts
            self.tell("attribution", done, plan.warm_start * len(rows))

        scores = attribution(
            study.subject,
            study.pairs[rows],
            study.reference,
            objective="kl" if plan.warm_start > 1 else "logit-difference",
            steps=plan.warm_start,
            batch_size=2 * plan.batch,
            on_step=told,
        )
        return coarsen(study.subject, scores, plan.kinds)

    def _optimiser(self) -> torch.optim.Adam:
        """Adam with its moments as they were kept."""
        optimiser = torch.optim.Adam(self.log_alpha.values(), lr=self.plan.lr, betas=BETAS)
        for kind, value in self.log_alpha.items():
            if f"{kind}.exp_avg" in self.checkpoint.tensors:
                names = ("step", "exp_avg", "exp_avg_sq")
                optimiser.state[value] = {name: self._tensor(kind, name) for name in names}
        return optimiser

    def _keep(self, step: int, index: int) -> None:
        """Remember this moment; on disk where there is a folder."""
        self._store(self.log_alpha, "log_alpha")
        for name in ("step", "exp_avg", "exp_avg_sq"):
            if step:
                self._store({kind: self.optimiser.state[value][name] for kind, value in self.log_alpha.items()}, name)
            else:  # a new round starts with a fresh optimiser
                self.checkpoint.tensors = {k: v for k, v in self.checkpoint.tensors.items() if not k.endswith(name)}
        self.checkpoint.facts |= {"step": step, "round": index, "price": self.dual.price, "average": self.dual.average}
        self._save()

    def _save(self) -> None:
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.checkpoint.save(self.path)

    def _rows(self, step: int) -> Tensor:
        """The rows of one step: each epoch passes over all pairs in its own order."""
        n, size = len(self.study.pairs), min(self.plan.batch, len(self.study.pairs))
        epoch, part = divmod(step, n // size)
        order = torch.randperm(
            n, generator=torch.Generator().manual_seed(hash((self.plan.seed, -1, epoch)) % (1 << 63))
        )
        return order[part * size : (part + 1) * size]

    def cost(self, kept: Kept) -> float:
        """The share of the whole model's cost that a hard circuit has."""
        layers = range(len(self.study.subject))
        hard = {kind: torch.stack([kept[Site(layer, kind)] for layer in layers]).float() for kind in self.plan.kinds}
        return float(self.study.prices.expected(hard))

    def _by_site(self, stacked: Mapping[Kind, Tensor]) -> dict[Site, Tensor]:
        return {Site(layer, kind): row for kind, rows in stacked.items() for layer, row in enumerate(rows)}

    def _tensor(self, kind: Kind, name: str) -> Tensor:
        return self.checkpoint.tensors[f"{kind}.{name}"].clone()

    def _store(self, values: Mapping[Kind, Tensor], name: str) -> None:
        self.checkpoint.tensors |= {f"{kind}.{name}": value.detach().clone() for kind, value in values.items()}
