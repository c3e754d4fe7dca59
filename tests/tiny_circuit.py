"""Circuits made by hand in the planted models."""

from typing import Any

import torch
from torch import Tensor

from subcircuit.circuit import Circuit, Origin, tidy
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from tiny import HEADS, NEURONS

__all__ = ["KINDS", "ORIGIN", "by_hand", "kept_nodes", "planted_circuit", "scores_of"]

KINDS = (Kind.BLOCK, Kind.ATTN, Kind.MLP, Kind.HEAD, Kind.CHANNEL, Kind.NEURON)
ORIGIN = Origin(
    model="planted",
    revision="",
    family="llama",
    dtype="float32",
    task="random",
    method="by hand",
    reference="corrupt",
    seed=0,
    seconds=0.0,
    pairs={"train": 12},
)


def kept_nodes(subject: Subject, heads: list[tuple[int, int]], neurons: list[tuple[int, int]]) -> dict[Site, Tensor]:
    """These (layer, unit) and what they lie in."""
    kept = {site: torch.ones(subject.units(site.kind), dtype=torch.bool) for site in subject.sites(*KINDS)}
    for kind, nodes in {Kind.HEAD: heads, Kind.NEURON: neurons}.items():
        for layer in range(len(subject)):
            kept[Site(layer, kind)][:] = False
            kept[Site(layer, kind)][[unit for at, unit in nodes if at == layer]] = True
    return tidy(kept)


def scores_of(kept: dict[Site, Tensor]) -> dict[Site, Tensor]:
    """1 for what is kept, 0 for the rest."""
    return {site: truth.float() for site, truth in kept.items()}


def by_hand(kept: dict[Site, Tensor], **changes: Any) -> Circuit:
    """A circuit of these nodes; `changes` go into its origin."""
    return Circuit(scores_of(kept), kept, ORIGIN.model_copy(update=changes))


def planted_circuit(subject: Subject) -> Circuit:
    """The whole of what was planted."""
    return by_hand(kept_nodes(subject, HEADS, NEURONS))
