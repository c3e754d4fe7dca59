"""All that can be measured of a circuit on one set of prompts: `full.json`, beside the table of `evidence.json`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from subcircuit.circuit import Circuit
from subcircuit.errors import UsageError
from subcircuit.evaluation.completeness import (
    Complement,
    Incompleteness,
    Recovered,
    complement,
    incompleteness,
    recovered,
)
from subcircuit.evaluation.controls import Evidence, of_panel
from subcircuit.evaluation.curves import Curve, Order, curve
from subcircuit.evaluation.edge_panel import EdgePanel, EdgeRanking
from subcircuit.evaluation.hypotheses import Redundancy, Tested, equivalence, independence, redundancy
from subcircuit.evaluation.minimality import Minimality, coarse_kinds, inflated, minimality
from subcircuit.evaluation.optimal import Optimal, optimal
from subcircuit.evaluation.outliers import Outliers, outliers
from subcircuit.evaluation.panel import Panel
from subcircuit.evaluation.ranking import NodeRanking
from subcircuit.evaluation.setting import Setting, traced
from subcircuit.evaluation.sharded import Scoring, other_seeds
from subcircuit.evaluation.stability import Stability, by_prompt, over_prompts, over_seeds
from subcircuit.files import load_record, save_record
from subcircuit.scores import Estimate
from subcircuit.shards.launcher import Launcher
from subcircuit.sites import Node
from subcircuit.subject import Subject
from subcircuit.tasks._base import Split, Task

__all__ = ["FullEvidence", "full_evidence"]

SCHEMA = 1


class FullEvidence(BaseModel):
    """`full.json`: curves, completeness, minimality, tests, outliers and stability, each under its setting."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA
    split: str
    pairs: int
    seed: int
    curves: list[Curve] = Field(description="one by signed score; where scores are effects, one by magnitude as well")
    complement: Complement
    recovered: Recovered
    equivalence: Tested
    independence: Tested
    outliers: Outliers
    stability: list[Stability] = Field(default_factory=list)
    incompleteness: Incompleteness | None = Field(default=None, description="of circuits of nodes")
    minimality: Minimality | None = Field(default=None, description="of circuits of nodes")
    redundancy: Redundancy | None = Field(default=None, description="of circuits of nodes")
    optimal: Optimal | None = Field(default=None, description="of circuits of nodes; null unless asked for")
    passes: int = Field(description="masked runs of all prompts, the evidence's included")

    @property
    def cpr(self) -> Estimate | None:
        """MIB's circuit performance ratio; higher is better, unbounded."""
        means = self.curves[0].means
        return means.area if means else None

    @property
    def cmd(self) -> Estimate | None:
        """MIB's circuit-model distance; lower is better, 0 at best."""
        means = self.curves[-1].means
        return means.distance if means else None

    def save(self, folder: str | Path) -> None:
        """Write `full.json`, whole or not at all. Raises ResourceError."""
        save_record(self, Path(folder) / "full.json")

    @classmethod
    def load(cls, folder: str | Path) -> "FullEvidence":
        """Read it back. Raises DataError when it is missing or broken."""
        cure = f"run: subcircuit score {folder} --full"
        return load_record(cls, Path(folder) / "full.json", "a file of full evidence", missing=cure, broken=cure)


def full_evidence(
    subject: Subject,
    circuit: Circuit,
    task: Task,
    *,
    n: int = 200,
    split: Split = "test",
    controls: int = 20,
    seed: int = 0,
    exact: int = 32,
    seeds: int = 5,
    optimal_steps: int = 0,
    batch_size: int = 32,
    cache_bytes: int = 2 << 30,
    launcher: Launcher | None = None,
    on_step: Callable[[str], None] = lambda name: None,
) -> tuple[Evidence, FullEvidence]:
    """The evidence and all the rest, on the same prompts.

    Args:
        exact: nodes whose removal is measured by a run; the others are estimated to first order.
        seeds: circuits in the comparison over seeds, this one included; each other is a search. Below 2 = none.
        optimal_steps: steps in which the constants of optimal ablation are fitted; 0 = not at all.
        launcher: runs the random circuits and the searches with other seeds, and keeps what each gives.
        on_step: told the name of each run before it begins.

    Raises UsageError for a causal tracing: these measures ask what a circuit does alone. Otherwise as `evidence` does.
    """
    if traced(circuit):
        raise UsageError(
            "curves, completeness and tests are of circuits that run alone, and a causal tracing is what is replaced",
            "score it without --full",
        )
    scoring = Scoring(circuit, task, n, split, seed, batch_size, cache_bytes, launcher)
    panel = scoring.panel(subject, on_step)
    table = of_panel(panel, scoring, controls)
    found = _measured(panel, split)
    more: dict[str, Any] = {"stability": []}
    if circuit.edges is None:
        more = _of_nodes(panel, exact)
        more["stability"] = [over_prompts(circuit, subject, by_prompt(panel), seed=seed)]
        more["optimal"] = optimal(panel, optimal_steps) if optimal_steps else None
    if seeds > 1:
        start = circuit.origin.seed
        others = other_seeds(panel, range(start + 1, start + seeds), scoring)
        more["stability"].append(over_seeds(circuit, others))
    return table, found.model_copy(update=more | {"passes": panel.passes})


def _measured(panel: Panel, split: Split) -> FullEvidence:
    """What circuits of nodes and of edges have in common."""
    ranking = EdgeRanking(panel) if isinstance(panel, EdgePanel) else NodeRanking(panel)
    orders: tuple[Order, ...] = ("score", "magnitude") if ranking.signed else ("score",)
    circuit, rest, full = (each["logit_difference"] for each in (panel.chosen, panel.complement, panel.whole))
    within, without = (Setting.of(panel.circuit, which) for which in ("outside the circuit", "the circuit"))
    return FullEvidence(
        split=split,
        pairs=len(panel.pairs),
        seed=panel.seed,
        curves=[curve(ranking, order, seed=panel.seed) for order in orders],
        complement=complement(panel),
        recovered=recovered(panel),
        equivalence=equivalence(circuit, full, within),
        independence=independence(rest, full, without, seed=panel.seed),
        outliers=outliers(panel),
        passes=panel.passes,
    )


def _of_nodes(panel: Panel, exact: int) -> dict[str, Any]:
    """What is measured node by node."""
    drops = minimality(panel, exact)
    coarse = coarse_kinds(panel.circuit.kept)
    changes = {
        each.node: each.change
        for each in drops.nodes
        if each.change is not None and Node.parse(each.node).site.kind in coarse
    }
    return {
        "incompleteness": incompleteness(panel),
        "minimality": drops,
        "redundancy": redundancy(changes, inflated(panel), drops.setting),
    }
