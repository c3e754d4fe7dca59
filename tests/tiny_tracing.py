"""A random model in which everything matters, its task, and every set of its components by brute force."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from subcircuit.circuit import Circuit
from subcircuit.methods._components import Components
from subcircuit.methods._tracing import Tracing
from subcircuit.methods.causal_tracing import CausalTracing
from subcircuit.sites import Kind
from subcircuit.subject import Subject
from tiny import tiny
from tiny_task import RandomTask, planted_study

__all__ = ["FEW", "chosen", "discovery", "every_set", "mask_of", "names_of", "random_study", "tracing"]

FEW: dict[str, Any] = {"pairs": 8, "validation": 4, "kinds": "head,mlp"}


def random_study(family: str = "llama", *, seed: int = 0, **config: Any) -> tuple[Subject, RandomTask]:
    """Ten components of heads and MLPs, unless `config` says otherwise."""
    subject = Subject(tiny(family, seed=seed, **config).model, planted_study()[0].tokenizer, name=f"tiny-{family}")
    return subject, RandomTask(subject)


def tracing(method: CausalTracing, subject: Subject, task: RandomTask) -> Tracing:
    """What the method is run on."""
    return Tracing("causal-tracing", method, subject, task)


def every_set(n: int, k: int) -> Tensor:
    """One row for each set of k of n components."""
    return torch.stack(list(_rows(n, k)))


def discovery(circuit: Circuit) -> float:
    """The mean log odds ratio on the discovery pairs."""
    return circuit.origin.result["discovery"]


def chosen(circuit: Circuit) -> set[str]:
    """The nodes that it replaces, by name."""
    return {str(node) for kind in {site.kind for site in circuit.kept} for node in circuit.nodes(kind)}


def mask_of(components: list[int]) -> Tensor:
    """One set of ten components."""
    return torch.zeros(10, dtype=torch.bool).index_fill(0, torch.tensor(components), True)


def names_of(components: Components, mask: Tensor) -> set[str]:
    """The nodes of a set, by name."""
    kept = components.kept(mask)
    return {
        str(site) if site.kind is Kind.MLP else f"{site}.{int(unit)}"
        for site, truth in kept.items()
        for unit in truth.nonzero()[:, 0]
    }


def _rows(n: int, k: int) -> Iterator[Tensor]:
    for chosen in combinations(range(n), k):
        yield torch.zeros(n, dtype=torch.bool).index_fill(0, torch.tensor(chosen), True)
