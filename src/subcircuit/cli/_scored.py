"""Evidence for people: the table of scores, and what `score --json` prints."""

from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict, Field
from rich.table import Table

from subcircuit.evaluation import BudgetCurves, Estimate, Evidence, FullEvidence, Scores

__all__ = ["Scored", "budget_table", "table"]


class Scored(BaseModel):
    """`subcircuit score`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str
    verdict: str = Field(description="evidence, or no evidence")
    sentence: str = Field(description="the verdict's reason")
    evidence: Evidence = Field(description="as in evidence.json")
    full: FullEvidence | None = Field(default=None, description="as in full.json, with --full")
    budgets: BudgetCurves | None = Field(default=None, description="as in budgets.json, with --rivals")


def table(found: Evidence) -> Table:
    """Every row of the evidence, with 95% bootstrap intervals."""
    table = Table(box=None, pad_edge=False, title=f"{found.pairs} pairs of the {found.split} split", title_style="dim")
    traced = found.circuit.effect is not None
    table.add_column("")
    for column in (*(["effect"] if traced else []), "KL (nats)", "faithfulness", *ANSWERS):
        table.add_column(column, justify="right")
    best = min(found.random, key=lambda scores: -scores.effect.mean if scores.effect else scores.kl.mean, default=None)
    rows: list[tuple[str, Scores | None]] = [
        ("nothing replaced" if traced else "full model", found.full),
        ("circuit", found.circuit),
        ("attribution", found.attribution),
        ("integrated gradients", found.integrated),
        (f"random, best of {len(found.random)}", best),
        ("everything replaced" if traced else "empty circuit", found.empty),
    ]
    for name, scores in rows:
        if scores is not None:
            style = "bold" if name == "circuit" else None
            table.add_row(name, *(_with_interval(each) for each in _cells(scores)), style=style)
        if name == "integrated gradients" and found.random:
            table.add_row(f"random, mean of {len(found.random)}", *_means(found.random))
    return table


def budget_table(found: BudgetCurves) -> Table:
    """Effects by size and search, and what each search took."""
    table = Table(box=None, pad_edge=False, title=f"effect on {found.metric} by size", title_style="dim")
    table.add_column("")
    for point in found.curves[found.own]:
        table.add_column(str(point.k), justify="right")
    for column in ("passes", "seconds"):
        table.add_column(column, justify="right")
    for search, points in found.curves.items():
        last, style = points[-1], "bold" if search == found.own else None
        effects = (_with_interval(point.effect) for point in points)
        table.add_row(search, *effects, f"{last.passes:,}", f"{last.seconds:.0f}", style=style)
    return table


ANSWERS = ("logit difference", "accuracy", "exact match")
PARTS: Sequence[Callable[[Scores], Estimate | None]] = (
    lambda scores: scores.kl,
    lambda scores: scores.faithfulness,
    lambda scores: scores.logit_difference,
    lambda scores: scores.accuracy,
    lambda scores: scores.exact_match,
)


def _cells(scores: Scores) -> list[Estimate | None]:
    return [part(scores) for part in _parts(scores)]


def _parts(scores: Scores) -> Sequence[Callable[[Scores], Estimate | None]]:
    return PARTS if scores.effect is None else (lambda each: each.effect, *PARTS)


def _with_interval(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate.mean:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _means(draws: Sequence[Scores]) -> list[str]:
    """Means over draws; no interval, which would be one over draws and not over prompts."""
    columns = [[part(scores) for scores in draws] for part in _parts(draws[0])]
    return [
        f"{sum(each.mean for each in column if each is not None) / len(column):.2f}" if None not in column else "-"
        for column in columns
    ]
