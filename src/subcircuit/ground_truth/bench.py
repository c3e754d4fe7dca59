"""Every method on every case whose circuit is known: does it rank what does something above what does not?

Scores are ranked as the method itself ranks them: by magnitude where its setting `rank` says so, since an attribution
has a sign and a node that hurts does something too; else as they are, higher = more needed. Scores of different
granularities are never compared, for a circuit's scores promise nothing there. Edges that carry only a position or a
constant have no effect that patching could show, so they stand apart: `edges` counts them neither as true nor as false,
`every_edge` as true.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from subcircuit import plugins
from subcircuit.circuit import Circuit
from subcircuit.errors import SubcircuitError
from subcircuit.ground_truth.cases import Case
from subcircuit.ground_truth.ranking import Ranked, pooled, ranked
from subcircuit.sites import Kind, Node

__all__ = ["Result", "run", "score", "settings"]

PAIRS = 64
NODES = "head,mlp,neuron"
# What suits models this small, for the settings that a method has.
COMMON: dict[str, Any] = {"kl": 0.01, "validation": 32}
OWN: dict[str, dict[str, Any]] = {
    "activation-patching": {"kinds": NODES},
    "attribution-patching": {"kinds": NODES},
    "causal-tracing": {"kinds": "head,mlp", "k": 2, "metric": "kl", "direction": "denoise"},
    "greedy-removal": {"kinds": NODES, "threshold": 1e-5},
    "node-pruning": {"steps": 60, "polish": 4},
    "random": {"kinds": NODES},
}


class Result(BaseModel):
    """One method on one case."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    case: str
    seconds: float
    kinds: dict[str, Ranked] = Field(description="by granularity: head, mlp, and neuron where its truth is known")
    nodes: Ranked | None = Field(description="heads and MLPs, compared within a granularity; null without scores")
    edges: Ranked | None = Field(description="edges that carry tokens against those that carry nothing")
    every_edge: Ranked | None = Field(description="the same, edges that carry a position or a constant counted as true")
    refused: str = Field(default="", description="why the method did not run on this case")


def run(methods: Sequence[str], cases: Sequence[Case], *, seed: int = 0) -> Iterator[Result]:
    """Every method on every case, one after another. Raises UnknownName for a method that is not there."""
    made = {name: plugins.load("methods", name)(**settings(name, seed)) for name in methods}
    for case in cases:
        pairs = case.task.pairs(case.subject.tokenizer, PAIRS, seed=seed, split="train")
        for name, method in made.items():
            try:
                circuit = method.find(case.subject, case.task, pairs)
            except SubcircuitError as error:
                nothing: dict[str, Any] = {"kinds": {}, "nodes": None, "edges": None, "every_edge": None}
                yield Result(method=name, case=case.name, seconds=0.0, refused=error.message, **nothing)
            else:
                yield score(name, case, circuit)


def settings(method: str, seed: int = 0) -> dict[str, Any]:
    """What a method is run with here. Raises UnknownName."""
    known = {option.name for option in plugins.options("methods", method)}
    return {name: value for name, value in (COMMON | OWN.get(method, {}) | {"seed": seed}).items() if name in known}


def score(method: str, case: Case, circuit: Circuit) -> Result:
    """A circuit's rankings against the truth."""
    by_size = circuit.origin.settings.get("rank") == "magnitude"
    kinds = {kind.value: _nodes(case, circuit, kind, by_size) for kind in case.kinds}
    found = {kind: part for kind, part in kinds.items() if part is not None}
    coarse = {kind: part for kind, part in found.items() if kind != Kind.NEURON}
    edges = _edges(case, circuit, by_size)
    return Result(
        method=method,
        case=case.name,
        seconds=round(circuit.origin.seconds, 2),
        kinds=found,
        nodes=pooled(coarse) if coarse else None,
        edges=edges[0] if edges else None,
        every_edge=edges[1] if edges else None,
    )


def _nodes(case: Case, circuit: Circuit, kind: Kind, by_size: bool) -> Ranked | None:
    sites = [site for site in sorted(circuit.scores) if site.kind is kind]
    if not sites:
        return None
    truth = [Node(site, unit) in case.nodes for site in sites for unit in range(len(circuit.scores[site]))]
    return ranked(_value(torch.cat([circuit.scores[site] for site in sites]), by_size), torch.tensor(truth))


def _edges(case: Case, circuit: Circuit, by_size: bool) -> tuple[Ranked, Ranked] | None:
    """Edges that carry tokens against those that carry nothing, and all that carry something against the same."""
    if circuit.edges is None:
        return None
    wiring = circuit.edges.wiring
    true = torch.zeros_like(wiring.allowed)
    fixed = torch.zeros_like(wiring.allowed)
    for name, carries in case.edges.items():
        (true if carries == "token" else fixed)[wiring.parse(name)] = True
    value = _value(circuit.edges.scores, by_size)
    told = wiring.allowed & ~fixed
    return ranked(value[told], true[told]), ranked(value[wiring.allowed], (true | fixed)[wiring.allowed])


def _value(scores: Tensor, by_size: bool) -> Tensor:
    return scores.detach().double().abs() if by_size else scores.detach().double()
