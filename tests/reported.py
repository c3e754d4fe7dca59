"""Run folders for a report, of a planted model: with all evidence, with none, of edges."""

from pathlib import Path

import torch

from edge_circuits import random_circuit
from subcircuit.circuit import Circuit
from subcircuit.evaluation import full_evidence
from subcircuit.wiring import Wiring
from tiny_circuit import by_hand, planted_circuit
from tiny_task import planted_study

__all__ = ["edge_run", "ranked_circuit", "ranked_run", "scored_run"]

TABLE = Wiring(layers=4, heads=4, groups=2)


def scored_run(folder: Path) -> Path:
    """The planted circuit with its evidence and curves."""
    subject, task = planted_study()
    circuit = planted_circuit(subject)
    table, full = full_evidence(subject, circuit, task, n=24, controls=3, exact=0, seeds=1)
    for each in (circuit, table, full):
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


def edge_run(folder: Path) -> Path:
    """A circuit of edges, not scored."""
    random_circuit(TABLE).save(folder)
    return folder
