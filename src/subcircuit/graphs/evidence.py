"""Whether a circuit of features is one: on prompts it never saw, beside controls of the same size.

Sufficiency: only the circuit is on. Necessity: only the circuit is off. Curves do both for the first features of a
ranking at every size, with MIB's areas (see `evaluation.curves`); sizes are shares of the candidates.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from subcircuit.evaluation.curves import cmd, cpr, ratio_of_means
from subcircuit.evaluation.intervals import estimate, resamples
from subcircuit.graphs.candidates import Candidates
from subcircuit.graphs.switching import Switches
from subcircuit.scores import Estimate, PerPrompt, Scores, judge, summarise

__all__ = ["FeatureCurve", "FeatureEvidence", "Row", "curve_of", "random_alike", "weigh"]

SIZES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
Chosen = Bool[Tensor, " candidate"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(_Record):
    """One choice of features."""

    features: int
    sufficiency: Scores = Field(description="with only these on")
    necessity: Scores = Field(description="with only these off")


class FeatureCurve(_Record):
    """The first features of a ranking at every size."""

    ranking: str
    fractions: list[float] = Field(description="of the candidates")
    sufficiency: list[Estimate | None] = Field(description="faithfulness with only the first on; 1 = full model")
    necessity: list[Estimate | None] = Field(description="with only the first off: what is left without them")
    cpr: Estimate | None = Field(description="area under sufficiency; high is good")
    cmd: Estimate | None = Field(description="area of its distance from 1; 0 is perfect")


class FeatureEvidence(_Record):
    """A circuit beside its controls, on test prompts."""

    prompts: int
    ablation: str
    candidates: int
    full: Scores
    empty: Scores = Field(description="every feature off, errors held")
    circuit: Row
    controls: dict[str, Row] = Field(description="as many features, chosen otherwise; greedy has its own number")
    random: list[float] = Field(description="exact match of each random choice, matched by layer and position")
    random_kl: list[float]
    curves: list[FeatureCurve]


def weigh(
    found: Candidates,
    switches: Switches,
    kept: Chosen,
    *,
    others: Mapping[str, Chosen] | None = None,
    draws: int = 20,
    seed: int = 0,
) -> FeatureEvidence:
    """Run a circuit, its controls and its curves. `others` are choices to stand beside it, by name."""
    full, empty = judge(switches.full, switches.full, switches.pairs), _only(found, switches, torch.zeros_like(kept))
    size = int(kept.sum())
    top = {"top activation": _first(found.activation, size), "top influence": _first(found.influence, size)}

    def row(chosen: Chosen) -> Row:
        inside, outside = _only(found, switches, chosen), switches.judged(found.without(chosen))
        return Row(
            features=int(chosen.sum()),
            sufficiency=summarise(inside, full, empty, seed),
            necessity=summarise(outside, full, empty, seed),
        )

    random = [_only(found, switches, random_alike(found, kept, seed + draw)) for draw in range(draws)]
    rankings = {"hierarchy": found.influence + kept * found.influence.max(), "influence": found.influence}
    rankings["activation"] = found.activation
    return FeatureEvidence(
        prompts=len(switches.pairs),
        ablation=switches.ablation,
        candidates=len(found),
        full=summarise(full, full, empty, seed),
        empty=summarise(empty, full, empty, seed),
        circuit=row(kept),
        controls={name: row(chosen) for name, chosen in {**top, **(others or {})}.items()},
        random=[float(each["exact_match"].mean()) for each in random],
        random_kl=[float(each["kl"].mean()) for each in random],
        curves=[curve_of(found, switches, name, scores, full, empty, seed) for name, scores in rankings.items()],
    )


def curve_of(
    found: Candidates,
    switches: Switches,
    name: str,
    scores: Float[Tensor, " candidate"],
    full: PerPrompt,
    empty: PerPrompt,
    seed: int = 0,
) -> FeatureCurve:
    """Sufficiency and necessity of the best-scored features at every size."""
    chosen = [_first(scores, max(1, int(size * len(found)))) for size in SIZES]
    keys = [_only(found, switches, each)["logit_difference"] for each in chosen]
    lacks = [switches.judged(found.without(each))["logit_difference"] for each in chosen]
    rows, whole = resamples(len(switches.pairs), seed), torch.arange(len(switches.pairs))[None]
    ends = (full["logit_difference"], empty["logit_difference"])
    inside, outside = (torch.stack(each) for each in (keys, lacks))
    (kept, drawn), (lost, lost_drawn) = (
        (ratio_of_means(each, *ends, whole)[0], ratio_of_means(each, *ends, rows)) for each in (inside, outside)
    )
    areas = [estimate(area(kept[None], SIZES)[0], area(drawn, SIZES)) for area in (cpr, cmd)]
    return FeatureCurve(
        ranking=name,
        fractions=list(SIZES),
        sufficiency=[estimate(value, drawn[:, index]) for index, value in enumerate(kept)],
        necessity=[estimate(value, lost_drawn[:, index]) for index, value in enumerate(lost)],
        cpr=areas[0],
        cmd=areas[1],
    )


def random_alike(found: Candidates, kept: Chosen, seed: int) -> Chosen:
    """As many candidates of each layer and position as are kept, drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(len(found), generator=generator)
    places = found.graph.features[:, 0] * found.positions + found.graph.features[:, 1]
    chosen = torch.zeros_like(kept)
    for place in places.unique():
        own = (places == place).nonzero()[:, 0]
        chosen[own[noise[own].argsort()[: int(kept[own].sum())]]] = True
    return chosen


def _only(found: Candidates, switches: Switches, chosen: Chosen) -> PerPrompt:
    return switches.judged(found.keep(chosen))


def _first(scores: Float[Tensor, " candidate"], count: int) -> Chosen:
    best = scores.argsort(descending=True, stable=True)[:count]
    return torch.zeros(len(scores), dtype=torch.bool).index_fill(0, best, True)
