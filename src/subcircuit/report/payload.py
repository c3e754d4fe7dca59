"""What the page of a report is told: circuits with all their scores, evidence, curves, and where they come from."""

import hashlib
from collections.abc import Collection
from pathlib import Path

import torch
from pydantic import Field

from subcircuit.circuit import Circuit
from subcircuit.evaluation import BudgetCurves, Evidence, FullEvidence, TokenEffects
from subcircuit.evaluation.comparison import Comparison, Scored, compare
from subcircuit.evaluation.ranking import effects, finest
from subcircuit.evaluation.setting import traced
from subcircuit.records import Origin, Size
from subcircuit.report.arrays import Arrays, Part, Place
from subcircuit.report.budgets import Budget, budgets
from subcircuit.report.commands import commands
from subcircuit.report.edges import EdgeList, edge_list
from subcircuit.report.warnings import warnings
from subcircuit.runs import FILES, Run, RunFolder
from subcircuit.sites import PARENT, Kind

__all__ = ["Grid", "PageRun", "Payload", "payload"]


class Grid(Part):
    """One kind of node, layer by unit."""

    scores: Place
    kept: Place = Field(description="1 = in the circuit")


class PageRun(Part):
    """One run folder."""

    folder: str
    origin: Origin
    layers: int
    units: dict[str, int] = Field(description="units of a site, by kind")
    sizes: dict[str, Size]
    grids: dict[str, Grid] = Field(description="by kind")
    effects: bool = Field(description="scores are effects with a sign; else gates, which close what lies in them")
    lines: dict[str, list[str]] = Field(
        description="of every finest kind: itself and what it lies in; of scores that are gates, the least ranks it"
    )
    edges: EdgeList | None
    traced: bool = Field(description="the circuit is what is replaced, all else computes on what reaches it")
    budgets: list[Budget] = Field(
        description="of a causal tracing that is scored: this size and others, smallest first"
    )
    searches: BudgetCurves | None = Field(description="of a causal tracing: other searches at its sizes")
    evidence: Evidence | None
    verdict: str = Field(description="evidence, no evidence, or empty where there are no scores yet")
    reason: str
    full: FullEvidence | None = Field(description="without its list of single nodes")
    tokens: TokenEffects | None = Field(description="of prompts of the evidence")
    run: Run | None = Field(description="run.yaml; null for circuits that were made in Python")
    warnings: list[str]
    commands: list[str] = Field(description="what makes the run again")
    files: dict[str, str] = Field(description="sha256 of each file of the run")


class Payload(Part):
    """All of the page."""

    runs: list[PageRun]
    comparison: Comparison | None = Field(description="of several runs")

    @property
    def title(self) -> str:
        """What a browser shows above the page."""
        first = self.runs[0].origin
        more = f" and {len(self.runs) - 1} more" if len(self.runs) > 1 else ""
        return f"{first.task} in {first.model}: {first.method}{more}"


def payload(*folders: str) -> tuple[Payload, Arrays]:
    """Read run folders. Raises DataError where one cannot be read or compared, UsageError for one given twice."""
    arrays = Arrays()
    places = [Path(folder) for folder in folders]
    for place in places:
        RunFolder(place).circuit()  # says of a search that is not finished how to go on
    comparison = compare(places) if len(places) > 1 else None
    return Payload(runs=[_run(place, arrays) for place in places], comparison=comparison), arrays


def _run(place: Path, arrays: Arrays) -> PageRun:
    scored, run = Scored.read(place), RunFolder(place).read()
    circuit, found, curves = scored.circuit, scored.evidence, scored.curves
    tokens = TokenEffects.load(place) if found and (place / "tokens.json").is_file() else None
    kinds = list(dict.fromkeys(site.kind for site in sorted(circuit.kept)))
    return PageRun(
        folder=scored.folder,
        origin=circuit.origin,
        layers=1 + max(site.layer for site in circuit.kept),
        units={kind: len(next(v for site, v in circuit.kept.items() if site.kind is kind)) for kind in kinds},
        sizes=circuit.sizes,
        grids={kind: _grid(circuit, kind, arrays) for kind in kinds},
        effects=effects(circuit),
        lines=_lines(circuit),
        edges=edge_list(circuit.edges, arrays) if circuit.edges else None,
        traced=traced(circuit),
        budgets=budgets(scored),
        searches=BudgetCurves.load(place) if (place / "budgets.json").is_file() else None,
        evidence=found,
        verdict=found.verdict if found else "",
        reason=found.reason if found else "",
        full=curves.model_copy(update={"minimality": None}) if curves else None,
        tokens=tokens if found and tokens and tokens.of(found) else None,
        run=run,
        warnings=warnings(scored, run, tokens),
        commands=commands(scored, run),
        files={name: _sha256(place / name) for name in FILES if name != "report.html" and (place / name).is_file()},
    )


def _grid(circuit: Circuit, kind: Kind, arrays: Arrays) -> Grid:
    """All layers of a kind. A site without scores of its own is 0 throughout."""
    sites = sorted(site for site in circuit.kept if site.kind is kind)
    kept = torch.stack([circuit.kept[site] for site in sites])
    scores = [circuit.scores.get(site, torch.zeros(kept.shape[1])).float() for site in sites]
    return Grid(scores=arrays.add(torch.stack(scores).numpy(), "f4"), kept=arrays.add(kept.numpy(), "u1"))


def _lines(circuit: Circuit) -> dict[str, list[str]]:
    scored = {site.kind for site in circuit.scores}
    return {kind: _line(kind, scored) for kind in dict.fromkeys(site.kind for site in finest(circuit))}


def _line(kind: Kind, scored: Collection[Kind]) -> list[str]:
    line = [kind]
    while line[-1] in PARENT:
        line.append(PARENT[line[-1]])
    return [str(each) for each in line if each is kind or each in scored]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
