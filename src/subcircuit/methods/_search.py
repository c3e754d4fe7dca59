"""The search of node pruning: gates learned under a budget, then a hard circuit. The state is kept after every step."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit import metrics
from subcircuit.checkpoint import Checkpoint
from subcircuit.circuit import Kept, tidy
from subcircuit.errors import Interrupted, NumericalError
from subcircuit.finishing import calibrate, polish
from subcircuit.gates import Dual
from subcircuit.gradients import attribution, coarsen
from subcircuit.intervention import masking
from subcircuit.methods._plan import Plan, Study
from subcircuit.progress import Progress
from subcircuit.sites import Kind, Site

__all__ = ["LogAlpha", "Search"]

LogAlpha = dict[Kind, Float[Tensor, "layer unit"]]

COARSE_START = {Kind.BLOCK: 6.0, Kind.ATTN: 5.0, Kind.MLP: 5.0}  # log_alpha; the product of a line starts near 1
MARGIN = 0.6  # of the budget, for the prompts that the gates are fitted to: unseen ones come out above them
FINE_START = 3.0  # and the widest a warm start spreads fine gates to either side of 0


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

    def run(self, index: int, budget: float) -> None:
        """The steps of round `index`: the budget's first step to its last."""
        if self.checkpoint.facts["round"] > index:
            return
        steps = self.plan.steps if index == 0 else max(1, self.plan.steps // 2)
        first, price, average = (self.checkpoint.facts[name] for name in ("step", "price", "average"))
        self.optimiser, self.dual = self._optimiser(), Dual(self.plan.size or MARGIN * budget, price, average=average)
        try:
            for step in range(first, steps):
                self.optimiser.param_groups[0]["lr"] = self.plan.lr * _schedule(step, steps)
                kl, cost = self.step(index * self.plan.steps + step)
                self._keep(step + 1, index)
                self.tell("gates", step + 1, steps, kl=kl, cost=cost, price=self.dual.price)
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
            kept = calibrate(sites, lambda kept: self._cost(kept) <= size, limit=limit, tries=20, largest=True)
        else:
            kept = calibrate(sites, lambda kept: study.validation.kl(kept) <= budget, limit=limit)
            allowed = self._by_site(self.allowed)
            kept = polish(kept, allowed, study.validation, budget, tries=plan.polish, tell=self.tell)
        return kept, scores, study.validation.kl(kept)

    def step(self, step: int) -> tuple[float, float]:
        """One optimisation step on the rows of this step; returns KL and expected cost as they were before it."""
        plan, study = self.plan, self.study
        generator = torch.Generator().manual_seed(hash((plan.seed, step)) % (1 << 63))
        rows = self._rows(step)
        gates = {kind: plan.relaxation(value, generator) * self.allowed[kind] for kind, value in self.log_alpha.items()}
        with masking(study.subject, self._by_site(gates), study.reference(rows)):
            logits = study.subject.logits(study.pairs.clean[rows])
        kl = metrics.kl(study.full[rows].to(logits.device), logits).mean()
        p = {kind: plan.relaxation.p_open(value) * self.allowed[kind] for kind, value in self.log_alpha.items()}
        cost = study.prices.expected(p)
        if plan.penalties:
            loss = kl + torch.stack([weight * p[kind].mean() for kind, weight in plan.penalties.items()]).sum()
        else:
            loss = kl + self.dual.price * cost if plan.size is not None else cost + self.dual.price * kl
        self.optimiser.zero_grad()
        loss.backward()
        self._require_finite(step, loss)
        self.optimiser.step()
        for value in self.log_alpha.values():
            plan.relaxation.clamp_(value)
        kl_now, cost_now = float(kl.detach()), float(cost.detach())
        self.dual.update(cost_now if plan.size is not None else kl_now)
        return kl_now, cost_now

    def _require_finite(self, step: int, loss: Tensor) -> None:
        slopes = [value.grad for value in self.log_alpha.values() if value.grad is not None]
        what = f"loss is {loss.item()}" if not loss.isfinite() else "gradient of the gates is not finite"
        if not all(value.isfinite().all() for value in (loss, *slopes)):
            raise NumericalError(
                f"the {what} at step {step + 1}",
                "the state of the step before is kept: resume with float32 weights, or start again with a smaller --lr",
            )

    def _start(self) -> None:
        """Gates at their first values: all open, or ranked by integrated gradients of KL."""
        plan, subject = self.plan, self.study.subject
        shape = {kind: (len(subject), subject.units(kind)) for kind in plan.kinds}
        start = {kind: torch.full(shape[kind], COARSE_START.get(kind, FINE_START)) for kind in plan.kinds}
        if plan.warm_start:
            scores = self._attribution()
            for kind in plan.kinds:
                if kind not in COARSE_START:
                    stacked = torch.stack([scores[Site(layer, kind)] for layer in range(len(subject))])
                    start[kind] = _ranked(stacked.abs(), plan.share)
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
        optimiser = torch.optim.Adam(self.log_alpha.values(), lr=self.plan.lr)
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

    def _cost(self, kept: Kept) -> float:
        layers = range(len(self.study.subject))
        hard = {kind: torch.stack([kept[Site(layer, kind)] for layer in layers]).float() for kind in self.plan.kinds}
        return float(self.study.prices.expected(hard))

    def _by_site(self, stacked: Mapping[Kind, Tensor]) -> dict[Site, Tensor]:
        return {Site(layer, kind): row for kind, rows in stacked.items() for layer, row in enumerate(rows)}

    def _tensor(self, kind: Kind, name: str) -> Tensor:
        return self.checkpoint.tensors[f"{kind}.{name}"].clone()

    def _store(self, values: Mapping[Kind, Tensor], name: str) -> None:
        self.checkpoint.tensors |= {f"{kind}.{name}": value.detach().clone() for kind, value in values.items()}


def _ranked(score: Float[Tensor, "layer unit"], share: float) -> Float[Tensor, "layer unit"]:
    """Gates from scores: the best `share` start open, the others closed, each as far from 0 as its score is clear."""
    edge = score.flatten().kthvalue(max(1, math.ceil((1 - share) * score.numel()))).values
    return (score / edge.clamp(min=1e-12) + 1e-9).log().clamp(-FINE_START, FINE_START)


def _schedule(step: int, steps: int) -> float:
    """Share of the learning rate: ten steps up, then a cosine down to a tenth."""
    warm = min(1.0, (step + 1) / 10)
    return warm * (0.55 + 0.45 * math.cos(math.pi * step / steps))
