"""Weights in bfloat16 under gates and scores in float32: what is left of the scores that float32 weights give."""

from typing import Any

import pytest
import torch

from subcircuit import plugins
from subcircuit.circuit import Circuit
from subcircuit.ground_truth.planted import RandomTask, planted
from subcircuit.sites import Site

FEW: dict[str, Any] = {"pairs": 9, "validation": 5, "batch": 4}
SETTINGS = {"attribution-patching": {**FEW, "objective": "kl", "steps": 3}, "activation-patching": FEW}


def found(method: str, family: str, dtype: torch.dtype) -> Circuit:
    """The same search of the same prompts; only the weights are rounded."""
    subject = planted(family)
    task = RandomTask(subject)
    subject.model.to(dtype)
    circuit: Circuit = plugins.load("methods", method)(**SETTINGS[method]).find(subject, task)
    return circuit


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize(("method", "off"), [("attribution-patching", 0.33), ("activation-patching", 0.06)])
def test_scores_stay_near_in_float32(method: str, family: str, off: float) -> None:
    """As docs/scale.md says; the bounds are wide, for how bfloat16 products round depends on the processor."""
    exact, rounded = (found(method, family, dtype).scores for dtype in (torch.float32, torch.bfloat16))
    largest = max(float(score.abs().max()) for score in exact.values())

    def apart(site: Site) -> float:
        return float((exact[site] - rounded[site]).abs().max())

    assert all(score.dtype is torch.float32 for score in rounded.values())
    assert 0 < max(map(apart, exact)) < off * largest
