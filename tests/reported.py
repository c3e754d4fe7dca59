"""Run folders for a report, of tiny models: with all evidence, with none, of edges, of causal tracing."""

from pathlib import Path

import torch

from edge_circuits import random_circuit
from subcircuit.circuit import Circuit
from subcircuit.evaluation import BudgetCurves, budget_curves, evidence, full_evidence, token_effects
from subcircuit.methods.causal_tracing import CausalTracing
from subcircuit.runs import Run, RunFolder
from subcircuit.wiring import Wiring
from tiny_circuit import by_hand, planted_circuit
from tiny_task import planted_study
from tiny_tracing import FEW, random_study

__all__ = ["add_searches", "edge_run", "ranked_circuit", "ranked_run", "scored_run", "traced_run"]

TABLE = Wiring(layers=4, heads=4, groups=2)


def scored_run(folder: Path) -> Path:
    """The planted circuit with its evidence, curves and effects by token."""
    subject, task = planted_study()
    circuit = planted_circuit(subject)
    table, full = full_evidence(subject, circuit, task, n=24, controls=3, exact=0, seeds=1)
    for each in (circuit, table, full, token_effects(subject, circuit, task, table)):
        each.save(folder)
    return folder


def ranked_circuit(effects: bool, **changes: str) -> Circuit:
    """The planted circuit with a score of its own for every node, drawn at random; effects have both signs."""
    subject, _ = planted_study()
    kept, generator = planted_circuit(subject).kept, torch.Generator().manual_seed(3)
    scores = {site: torch.randn(len(truth), generator=generator) for site, truth in kept.items()}
    circuit = by_hand(dict(kept), settings={"rank": "magnitude"} if effects else {}, **changes)
    return Circuit(scores, circuit.kept, circuit.origin)


def ranked_run(folder: Path, effects: bool = False, **changes: str) -> Path:
    """A circuit that nobody has scored."""
    ranked_circuit(effects, **changes).save(folder)
    return folder


def traced_run(folder: Path, search: str = "gates", sizes: tuple[int, ...] = (1, 3, 5)) -> Path:
    """A causal tracing at several sizes, each of them scored; the folder's own is the smallest."""
    subject, task = random_study()
    found = CausalTracing(search=search, budgets=",".join(map(str, sizes)), **FEW)  # type: ignore[arg-type]
    for at, circuit in enumerate(found.family(subject, task)):
        table = evidence(subject, circuit, task, n=12, controls=3)
        for place in (folder / f"k-{sizes[at]}", *([folder] if at == 0 else [])):
            for each in (circuit, table, token_effects(subject, circuit, task, table)):
                each.save(place)
            RunFolder(place).write(_record(circuit))
    return folder


def add_searches(folder: Path, *rivals: str) -> BudgetCurves:
    """Other searches beside those of `traced_run`."""
    subject, task = random_study()
    found = budget_curves(
        subject, [Circuit.load(each.path) for each in RunFolder(folder).members()], task, rivals, n=12
    )
    found.save(folder)
    return found


def _record(circuit: Circuit) -> Run:
    origin = circuit.origin
    about = {name: getattr(origin, name) for name in ("method", "settings", "model", "revision", "dtype", "task")}
    return Run(**about, device="cpu", versions=origin.versions, started="2026-01-01T00:00:00+00:00", status="finished")


def edge_run(folder: Path) -> Path:
    """A circuit of edges, not scored."""
    random_circuit(TABLE).save(folder)
    return folder
