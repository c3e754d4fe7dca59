"""Completeness: what the model can still do without the circuit, and without parts of it.

The complement keeps, where masks act, what the circuit leaves out: of a complete circuit nothing of the behaviour is
left, a faithfulness of 0. Wang et al. 2022 ask for more: knocking a part K out of a complete circuit C and out of the
model M has the same effect, so `|F(C - K) - F(M - K)|` is small for every K in C, F being the mean logit difference.
Here K holds each head and each MLP that the circuit keeps with probability 1/2; their greedy search for the worst K is
left out. NDF, `1 - min(|F(M) - F(C)| / |F(M) - F(empty)|, 1)`, is faithfulness bounded to [0, 1].
"""

import torch
from jaxtyping import Bool
from pydantic import Field
from torch import Tensor

from subcircuit.evaluation.intervals import GAP, UNDEFINED, interval
from subcircuit.evaluation.panel import Panel
from subcircuit.evaluation.setting import Result, Setting
from subcircuit.layout import spread
from subcircuit.scores import Estimate, PerPrompt, Scores
from subcircuit.sites import Kind, Site

__all__ = ["Complement", "Incompleteness", "Recovered", "complement", "incompleteness", "recovered"]

Part = dict[Site, Bool[Tensor, " unit"]]


class Complement(Result):
    """The model without the circuit."""

    scores: Scores = Field(description="a complete circuit leaves a faithfulness of 0")
    undefined: str = Field(default="", description="why there is no faithfulness; empty where there is")


class Incompleteness(Result):
    """How differently the circuit and the model lose the same nodes."""

    draws: int = Field(description="random parts K of the circuit")
    mean: Estimate | None = Field(description="|F(C without K) - F(M without K)|, mean over K, in logits")
    share: float | None = Field(description="the mean as a share of the gap between full model and empty circuit")
    pairs: list[tuple[float, float]] = Field(description="F(C without K) and F(M without K), one K after another")
    undefined: str = Field(default="", description="why there is no share; empty where there is")


class Recovered(Result):
    """Faithfulness bounded to [0, 1]."""

    ndf: Estimate | None = Field(description="1 = F of the full model, 0 = as far off as the empty circuit, or farther")
    undefined: str = Field(default="", description="why there is none; empty where there is one")


def complement(panel: Panel) -> Complement:
    """Ablate the circuit and nothing else."""
    return Complement(
        setting=Setting.of(panel.circuit, "the circuit"),
        scores=panel.scores(panel.complement),
        undefined=_reason(panel),
    )


def incompleteness(panel: Panel, draws: int = 10) -> Incompleteness:
    """Knock random parts out of the circuit and out of the model; two runs a draw."""
    generator = torch.Generator().manual_seed(panel.seed)
    inside, outside = [], []
    for draw in range(draws):
        part = _part(panel, generator)
        without = {site: kept & ~part[site] for site, kept in panel.inner.items()}
        inside.append(_answers(panel.run(f"circuit without part {draw + 1} of {draws}", without)))
        spared = {site: ~knocked for site, knocked in part.items()}
        outside.append(_answers(panel.run(f"model without part {draw + 1} of {draws}", spared)))
    c, m = torch.stack(inside), torch.stack(outside)

    def mean_gap(rows: Tensor) -> Tensor:
        return torch.stack([each[rows].mean(1).abs() for each in c - m]).mean(0)

    mean = interval(mean_gap, c.shape[1], panel.seed)
    clear = abs(panel.gap) > GAP
    return Incompleteness(
        setting=Setting.of(panel.circuit, "outside the circuit, and some of it"),
        draws=draws,
        mean=mean,
        share=mean.mean / abs(panel.gap) if mean is not None and clear else None,
        pairs=[(float(x), float(y)) for x, y in zip(c.mean(1), m.mean(1), strict=True)],
        undefined=_reason(panel),
    )


def recovered(panel: Panel) -> Recovered:
    """NDF of the circuit."""
    full, circuit, empty = (_answers(each) for each in (panel.whole, panel.chosen, panel.empty))

    def ndf(rows: Tensor) -> Tensor:
        gap = (full - empty)[rows].mean(1).abs()
        missing = (full - circuit)[rows].mean(1).abs()
        return 1 - (missing / gap.where(gap > GAP, torch.nan)).clamp(max=1)

    return Recovered(
        setting=Setting.of(panel.circuit, "outside the circuit"),
        ndf=interval(ndf, len(full), panel.seed),
        undefined=_reason(panel),
    )


def _part(panel: Panel, generator: torch.Generator) -> Part:
    """Each head (query, key, value) and each MLP with probability 1/2: what the circuit keeps of it where masks act."""
    mlps = torch.rand(len(panel.subject), 1, generator=generator) < 0.5
    part = {}
    for site, kept in panel.inner.items():
        if site.kind in (Kind.NEURON, Kind.MLP_OUT):
            coin = mlps[site.layer]
        else:
            heads = Kind.HEAD if site.kind is Kind.CHANNEL else site.kind
            coin = torch.rand(panel.subject.units(heads), generator=generator) < 0.5
        part[site] = kept & spread(coin, len(kept))
    return part


def _answers(found: PerPrompt) -> Tensor:
    return found["logit_difference"].double()


def _reason(panel: Panel) -> str:
    return "" if abs(panel.gap) > GAP else UNDEFINED
