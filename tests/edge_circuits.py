"""Circuits of edges, and EAP-IG files of one, made by hand or at random, without a model."""

import json
from pathlib import Path
from typing import Any

import torch

from subcircuit.circuit import Circuit, Origin
from subcircuit.edge_tables import Edges, best, connected, live_nodes, node_scores
from subcircuit.wiring import Wiring

__all__ = ["SMALL", "circuit_of", "origin", "random_circuit", "small_file", "written"]

SMALL = Wiring(layers=1, heads=2, groups=1)


def origin(**changes: Any) -> Origin:
    return Origin(
        **{
            "model": "openai-community/gpt2",
            "revision": "0" * 40,
            "family": "gpt2",
            "dtype": "float32",
            "task": "ioi",
            "method": "edge-attribution",
            "reference": "corrupt",
            "seed": 0,
            "pairs": {"train": 32},
            "seconds": 1.0,
            **changes,
        }
    )


def circuit_of(edges: Edges) -> Circuit:
    wiring = edges.wiring
    return Circuit(node_scores(wiring, edges.scores), live_nodes(wiring, edges.kept), origin(), edges)


def random_circuit(wiring: Wiring, n: int = 60) -> Circuit:
    scores = torch.randn(wiring.allowed.shape, generator=torch.Generator().manual_seed(1)) * wiring.allowed
    return circuit_of(Edges(wiring, scores, connected(wiring, best(wiring, scores, n))))


def small_file() -> dict[str, Any]:
    """One layer of two heads that share one key and one value."""
    names = [f"input->a0.h{head}<{part}>" for part in "qkv" for head in (0, 1)]
    names += [f"{writer}->m0" for writer in ("input", "a0.h0", "a0.h1")]
    names += [f"{writer}->logits" for writer in ("input", "a0.h0", "a0.h1", "m0")]
    return {
        "cfg": {"n_layers": 1, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 8},
        "nodes": {name: {"in_graph": True} for name in ("input", "a0.h0", "a0.h1", "m0", "logits")},
        "edges": {name: {"score": float(place), "in_graph": True} for place, name in enumerate(names)},
    }


def written(tmp_path: Path, content: Any) -> Path:
    """A file of this content: text as it is, anything else as JSON."""
    path = tmp_path / "circuit.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path
