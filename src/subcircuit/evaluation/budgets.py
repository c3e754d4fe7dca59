"""Budget curves: what k replaced components do on held-out pairs, by the run's own search and by its rivals.

Every search sees the discovery pairs of the run, has its settings, and gives its sets for the run's own sizes. Not the
circuits of one size are compared, as in the evidence, but ways of finding them, with what each of them took.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from subcircuit.circuit import Circuit
from subcircuit.errors import UnknownName, UsageError
from subcircuit.evaluation.intervals import average
from subcircuit.evaluation.setting import Result, Setting, traced
from subcircuit.evaluation.traced_panel import TracedPanel
from subcircuit.files import load_record, save_record
from subcircuit.methods.causal_tracing import CausalTracing
from subcircuit.progress import Progress, silent
from subcircuit.scores import Estimate
from subcircuit.subject import Subject
from subcircuit.tasks._base import Split, Task

__all__ = ["RIVALS", "BudgetCurves", "BudgetPoint", "budget_curves", "check_rivals"]

SCHEMA = 1
RIVALS = ("singles", "greedy", "random", "paper", "dcm", "gates")
# what a rival has in common with the search of the run; all else is its own preset's
SHARED = ("metric", "direction", "kinds", "group", "cost", "positions", "pairs", "validation", "reference", "seed")


class BudgetPoint(BaseModel):
    """One set of components."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    k: int = Field(description="the budget")
    size: int = Field(description="components that are replaced; with search paper it can be another number than k")
    effect: Estimate = Field(description="on the metric of the search; a ratio's logarithm, in nats")
    discovery: float = Field(description="the same on the discovery pairs")
    passes: int = Field(description="of one discovery prompt, by the whole search for all sizes")
    seconds: float = Field(description="of the whole search for all sizes")
    nodes: list[str] = Field(description="what is replaced; with parts of the positions, name@part")


class BudgetCurves(Result):
    """`budgets.json`."""

    schema_version: int = SCHEMA
    split: str
    pairs: int
    seed: int
    metric: str
    own: str = Field(description="the search of the run")
    everything: Estimate = Field(description="the effect of replacing all components")
    curves: dict[str, list[BudgetPoint]] = Field(description="by search, the smallest budget first")
    overlap: dict[str, list[float]] = Field(
        description="by rival, at every budget the Jaccard index of its nodes with the run's own"
    )

    def save(self, folder: str | Path) -> None:
        """Write `budgets.json`, whole or not at all. Raises ResourceError."""
        save_record(self, Path(folder) / "budgets.json")

    @classmethod
    def load(cls, folder: str | Path) -> "BudgetCurves":
        """Read it back. Raises DataError when it is missing or broken."""
        cure = f"run: subcircuit score {folder} --rivals singles,random"
        return load_record(cls, Path(folder) / "budgets.json", "a file of budget curves", missing=cure, broken=cure)


def budget_curves(
    subject: Subject,
    circuits: Sequence[Circuit],
    task: Task,
    rivals: Iterable[str] = ("singles", "random"),
    *,
    n: int = 200,
    split: Split = "test",
    seed: int = 0,
    progress: Progress = silent,
    on_step: Callable[[str], None] = lambda name: None,
) -> BudgetCurves:
    """The curve of a family of causal tracings, the smallest first, beside those of `rivals`, which are run here.

    Raises UnknownName for a rival that there is not, UsageError for circuits of another method.
    """
    rivals = list(rivals)
    check_rivals(rivals)
    if not all(traced(circuit) for circuit in circuits):
        raise UsageError(
            f"rivals are searches of causal tracing, and this circuit is of {circuits[0].origin.method}",
            "leave out --rivals, and compare runs instead: subcircuit compare",
        )
    origin = circuits[0].origin
    found: dict[str, Sequence[Circuit]] = {str(origin.settings["search"]): circuits}
    for rival in rivals:
        on_step(f"search {rival}")
        sizes = ",".join(str(int(circuit.origin.result["k"])) for circuit in circuits)
        found.setdefault(rival, _method(origin.settings, rival, sizes).family(subject, task, progress=progress))
    panel = TracedPanel.draw(subject, circuits[0], task, n=n, split=split, seed=seed, on_step=on_step)
    assert isinstance(panel, TracedPanel)
    curves = {search: [_point(panel, circuit) for circuit in each] for search, each in found.items()}
    own = str(origin.settings["search"])
    everything = average(panel.replacing.whole, seed)
    assert everything is not None
    return BudgetCurves(
        setting=Setting.of(circuits[0], "the circuit"),
        split=split,
        pairs=len(panel.pairs),
        seed=seed,
        metric=str(origin.settings["metric"]),
        own=own,
        everything=everything,
        curves=curves,
        overlap={
            rival: [_jaccard(*both) for both in zip(curves[own], points, strict=True)]
            for rival, points in curves.items()
            if rival != own
        },
    )


def check_rivals(rivals: Iterable[str]) -> None:
    """Raises UnknownName for a search that there is not."""
    for rival in rivals:
        if rival not in RIVALS:
            raise UnknownName("rival", rival, RIVALS)


def _method(settings: Mapping[str, Any], search: str, sizes: str) -> CausalTracing:
    shared = {name: settings[name] for name in SHARED if name in settings} | {"budgets": sizes}
    if search in CausalTracing.presets:
        method: CausalTracing = getattr(CausalTracing, search)(**shared)
        return method
    return replace(CausalTracing(**shared), search=search)


def _point(panel: TracedPanel, circuit: Circuit) -> BudgetPoint:
    other = TracedPanel.replaced_by(circuit)
    moved = panel.run(f"{circuit.origin.settings['search']} {circuit.origin.result['k']:g}", other)["effect"]
    effect = average(moved, panel.seed)
    assert effect is not None
    result, nodes = circuit.origin.result, _nodes(circuit)
    return BudgetPoint(
        k=int(result["k"]),
        size=int(result.get("count", result["k"])),
        effect=effect,
        discovery=result["discovery"],
        passes=int(result["passes"]),
        seconds=circuit.origin.seconds,
        nodes=nodes,
    )


def _nodes(circuit: Circuit) -> list[str]:
    file = circuit.file()
    if file.positions is None:
        return [name for names in file.nodes.values() for name in names]
    return [f"{name}@{part}" for part, names in file.positions.items() for name in names]


def _jaccard(one: BudgetPoint, other: BudgetPoint) -> float:
    mine, theirs = {*one.nodes}, {*other.nodes}
    return len(mine & theirs) / len(mine | theirs) if mine | theirs else 1.0
