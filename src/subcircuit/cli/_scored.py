"""Evidence for people: the table of scores, the verdict in a sentence, and what `score --json` prints."""

from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict, Field
from rich.table import Table

from subcircuit.evaluation import Estimate, Evidence, FullEvidence, Scores

__all__ = ["Scored", "sentence", "table"]


class Scored(BaseModel):
    """`subcircuit score`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str
    verdict: str = Field(description="evidence, or no evidence")
    sentence: str = Field(description="the verdict's reason")
    evidence: Evidence = Field(description="as in evidence.json")
    full: FullEvidence | None = Field(default=None, description="as in full.json, with --full")


def table(found: Evidence) -> Table:
    """Every row of the evidence, with 95% bootstrap intervals."""
    table = Table(box=None, pad_edge=False, title=f"{found.pairs} pairs of the {found.split} split", title_style="dim")
    table.add_column("")
    for column in ("KL (nats)", "faithfulness", "logit difference", "accuracy", "exact match"):
        table.add_column(column, justify="right")
    best = min(found.random, key=lambda scores: scores.kl.mean, default=None)
    rows: list[tuple[str, Scores | None]] = [
        ("full model", found.full),
        ("circuit", found.circuit),
        ("attribution", found.attribution),
        ("integrated gradients", found.integrated),
        (f"random, best of {len(found.random)}", best),
        ("empty circuit", found.empty),
    ]
    for name, scores in rows:
        if scores is not None:
            style = "bold" if name == "circuit" else None
            table.add_row(name, *(_with_interval(each) for each in _cells(scores)), style=style)
        if name == "integrated gradients" and found.random:
            table.add_row(f"random, mean of {len(found.random)}", *_means(found.random))
    return table


def sentence(found: Evidence) -> str:
    """Why the verdict is what it is."""
    kl = found.circuit.kl.mean
    if not found.answered:
        full, empty = found.full.logit_difference.mean, found.empty.logit_difference.mean
        return f"the full model's logit difference of {full:.3g} is not clearly above the empty circuit's {empty:.3g}"
    baselines = {
        "the attribution circuit": found.attribution.kl.mean,
        "the integrated-gradients circuit": found.integrated.kl.mean,
    }
    better = [f"{name} (KL {theirs:.3g})" for name, theirs in baselines.items() if theirs < kl]
    if found.empty.kl.mean <= kl:
        better.append(f"the empty circuit (KL {found.empty.kl.mean:.3g})")
    lucky = sum(scores.kl.mean <= kl for scores in found.random)
    if lucky:
        better.append(f"{lucky} of {len(found.random)} random circuits")
    if better:
        return f"the circuit's KL of {kl:.3g} is not below that of {', '.join(better)}"
    luckiest = min([scores.kl.mean for scores in found.random], default=found.empty.kl.mean)
    return (
        f"the circuit's KL of {kl:.3g} is below that of every random circuit of its size (the best: {luckiest:.3g}) "
        f"and no higher than attribution's ({min(baselines.values()):.3g}), "
        f"on {found.pairs} prompt pairs of the {found.split} split"
    )


PARTS: Sequence[Callable[[Scores], Estimate | None]] = (
    lambda scores: scores.kl,
    lambda scores: scores.faithfulness,
    lambda scores: scores.logit_difference,
    lambda scores: scores.accuracy,
    lambda scores: scores.exact_match,
)


def _cells(scores: Scores) -> list[Estimate | None]:
    return [part(scores) for part in PARTS]


def _with_interval(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate.mean:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _means(draws: Sequence[Scores]) -> list[str]:
    """Means over draws; no interval, which would be one over draws and not over prompts."""
    columns = [[part(scores) for scores in draws] for part in PARTS]
    return [
        f"{sum(each.mean for each in column if each is not None) / len(column):.2f}" if None not in column else "-"
        for column in columns
    ]
