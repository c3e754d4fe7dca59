"""A causal tracing at several budgets: what replacing k components does, beside what other sets of k do."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from subcircuit.evaluation import Estimate, Scores
from subcircuit.evaluation.comparison import Scored
from subcircuit.evaluation.setting import traced
from subcircuit.runs import RunFolder

__all__ = ["Budget", "budgets"]


class Budget(BaseModel):
    """One size. Effects are on the metric of the search."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    k: int = Field(description="components replaced together")
    folder: str
    nodes: list[str] = Field(description="the components, or what lies in them")
    circuit: Estimate
    attribution: Estimate
    integrated: Estimate
    random: list[Estimate]
    everything: Estimate = Field(description="all components replaced")


def budgets(scored: Scored) -> list[Budget]:
    """Of the folder and of its subfolders, as far as they are scored on the same prompts; the smallest size first.

    Raises DataError for a subfolder whose files are broken.
    """
    if not traced(scored.circuit):
        return []
    members = [Scored.read(member.path) for member in RunFolder(Path(scored.folder)).members()]
    found = {
        each.k: each
        for run in (*members, scored)
        for each in _budget(run)
        if _prompts(run) == _prompts(scored, *members)
    }
    return [found[k] for k in sorted(found)]


def _prompts(*runs: Scored) -> tuple[str, int, int] | None:
    """On which prompts the first of these runs that is scored was."""
    found = next((run.evidence for run in runs if run.evidence), None)
    return (found.split, found.pairs, found.seed) if found else None


def _budget(run: Scored) -> Iterator[Budget]:
    found, origin = run.evidence, run.circuit.origin
    if found is None or "k" not in origin.result:
        return
    yield Budget(
        k=int(origin.result["k"]),
        folder=run.folder,
        nodes=[
            str(node)
            for kind in dict.fromkeys(site.kind for site in run.circuit.kept)
            for node in run.circuit.nodes(kind)
        ],
        **{name: _effect(getattr(found, name)) for name in ("circuit", "attribution", "integrated")},
        random=[_effect(scores) for scores in found.random],
        everything=_effect(found.empty),
    )


def _effect(scores: Scores) -> Estimate:
    assert scores.effect is not None  # see `traced`
    return scores.effect
