"""Optimal ablation: closed nodes stand at constants that are fitted, for the circuit, to disturb it least.

After Li and Janson 2024, "Optimal ablation for interpretability" (arXiv 2409.09951): of all constants a node may be
replaced by, take those that minimise the expected loss of the ablated model, here KL(full || circuit) on the discovery
prompts. One constant per channel, the same at every position; it starts at the mean over clean prompts and is fitted by
Adam in units of each channel's standard deviation. Departs from theirs in that all of a circuit's constants are fitted
together for that one circuit, not anew for every circuit a search passes through.
"""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from subcircuit import metrics
from subcircuit.evaluation.intervals import average
from subcircuit.evaluation.panel import Panel
from subcircuit.evaluation.setting import Result, Setting
from subcircuit.intervention import Reference
from subcircuit.scores import Estimate
from subcircuit.sites import Site
from subcircuit.subject import Edit

__all__ = ["Constants", "Optimal", "fitted", "optimal"]

BATCH = 16
FEW = 64  # clean prompts a standard deviation is taken over


class Constants:
    """What closed nodes stand at: a filling like `intervention.Reference`."""

    def __init__(self, values: dict[Site, Float[Tensor, "1 1 unit channel"]]) -> None:
        self.values = values

    def __call__(self, rows: Tensor) -> dict[Site, Float[Tensor, "1 1 unit channel"]]:
        """The same for all rows."""
        return dict(self.values)


class Optimal(Result):
    """The circuit with constants in the place of what is closed, on prompts they were not fitted on."""

    steps: int
    kl: Estimate | None = Field(description="KL(full || circuit) in nats, with fitted constants")
    logit_difference: Estimate | None = Field(description="with fitted constants")
    mean_kl: Estimate | None = Field(description="KL with the constants they started from, the means")


def optimal(panel: Panel, steps: int = 100, lr: float = 0.05) -> Optimal:
    """Fit, then score both the fitted constants and the means."""
    start = _means(panel)
    constants = fitted(panel, start, steps, lr)
    mean = panel.run("mean constants", panel.inner, start)
    best = panel.run("optimal constants", panel.inner, constants)
    return Optimal(
        setting=Setting.of(panel.circuit, "outside the circuit", ablation="optimal"),
        steps=steps,
        kl=average(best["kl"], panel.seed),
        logit_difference=average(best["logit_difference"], panel.seed),
        mean_kl=average(mean["kl"], panel.seed),
    )


def fitted(panel: Panel, start: Constants, steps: int, lr: float) -> Constants:
    """Constants of least KL on the discovery prompts, drawn in batches."""
    subject, pairs = panel.subject, panel.discovery
    _, seen = subject.record(pairs.clean[:FEW], list(panel.inner))
    scale = {site: act.float().flatten(0, 1).std(0)[None, None] for site, act in seen.items()}
    moved = {site: torch.zeros_like(value, requires_grad=True) for site, value in start.values.items()}
    adam = torch.optim.Adam(moved.values(), lr=lr)
    generator = torch.Generator().manual_seed(panel.seed)
    for step in range(steps):
        if step % 10 == 0:
            panel.on_step(f"fitting constants, step {step + 1} of {steps}")
        rows = torch.randperm(len(pairs), generator=generator)[:BATCH]
        clean = pairs.clean[rows]
        with torch.no_grad():
            full = subject.logits(clean)
        values = {site: start.values[site] + scale[site] * moved[site] for site in moved}
        with subject.editing({site: _fill(kept, values[site]) for site, kept in panel.inner.items()}):
            loss = metrics.kl(full, subject.logits(clean)).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return Constants({site: start.values[site] + scale[site] * moved[site].detach() for site in moved})


def _means(panel: Panel) -> Constants:
    clean = panel.discovery.clean
    sites = list(panel.inner)
    return Constants(dict(Reference(panel.subject, "mean", clean, clean, sites, batch_size=panel.batch_size).means))


def _fill(kept: Tensor, value: Tensor) -> Edit:
    """`intervention.masking` gives a reference no gradient; here the reference is what is learned."""

    def edit(act: Tensor) -> Tensor:
        open_ = kept.to(act.device)[None, None, :, None]
        return act.where(open_, value.to(act.device, act.dtype))

    return edit
