"""Find the part of a language model that causes a behaviour, prove it, and read it.

The public names, imported when they are first used: `import subcircuit` by itself imports no torch.
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from subcircuit.circuit import Circuit
    from subcircuit.distillation import Distillation
    from subcircuit.evaluation import Evidence, FullEvidence, evidence, full_evidence
    from subcircuit.extraction import extract
    from subcircuit.loading import load
    from subcircuit.methods.activation_patching import ActivationPatching
    from subcircuit.methods.attribution_patching import AttributionPatching
    from subcircuit.methods.causal_tracing import CausalTracing
    from subcircuit.methods.circuit_lasso import CircuitLasso
    from subcircuit.methods.edge_attribution import EdgeAttribution
    from subcircuit.methods.edge_pruning import EdgePruning
    from subcircuit.methods.greedy_removal import GreedyRemoval
    from subcircuit.methods.node_pruning import NodePruning
    from subcircuit.sites import Kind, Node, Site
    from subcircuit.subject import Subject
    from subcircuit.tasks._base import Pairs
    from subcircuit.tasks._resolve import task

__all__ = [
    "ActivationPatching",
    "AttributionPatching",
    "CausalTracing",
    "Circuit",
    "CircuitLasso",
    "Distillation",
    "EdgeAttribution",
    "EdgePruning",
    "Evidence",
    "FullEvidence",
    "GreedyRemoval",
    "Kind",
    "Node",
    "NodePruning",
    "Pairs",
    "Site",
    "Subject",
    "evidence",
    "extract",
    "full_evidence",
    "load",
    "task",
]

__version__ = version("subcircuit")

HOMES = {
    "ActivationPatching": "methods.activation_patching",
    "AttributionPatching": "methods.attribution_patching",
    "CausalTracing": "methods.causal_tracing",
    "Circuit": "circuit",
    "Distillation": "distillation",
    "CircuitLasso": "methods.circuit_lasso",
    "EdgeAttribution": "methods.edge_attribution",
    "EdgePruning": "methods.edge_pruning",
    "Evidence": "evaluation",
    "FullEvidence": "evaluation",
    "GreedyRemoval": "methods.greedy_removal",
    "Kind": "sites",
    "Node": "sites",
    "NodePruning": "methods.node_pruning",
    "Pairs": "tasks._base",
    "Site": "sites",
    "Subject": "subject",
    "evidence": "evaluation",
    "extract": "extraction",
    "full_evidence": "evaluation",
    "load": "loading",
    "task": "tasks._resolve",
}


def __getattr__(name: str) -> object:
    if name not in HOMES:
        raise AttributeError(f"module 'subcircuit' has no attribute '{name}'")
    value: object = getattr(importlib.import_module(f"subcircuit.{HOMES[name]}"), name)
    globals()[name] = value  # found at once from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
