"""Models whose weights are placed by accelerate, as `device_map` does: here on the CPU and on disk."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from tiny import random_prompts, tiny

accelerate = pytest.importorskip("accelerate")


@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_a_dispatched_model_is_edited_like_any_other(family: str, place: str, tmp_path: Path) -> None:
    subject = tiny(family)
    plain, halved = _runs(subject)
    if place == "cpu":
        accelerate.dispatch_model(subject.model, {"": "cpu"}, force_hooks=True)
    else:
        accelerate.disk_offload(subject.model, tmp_path, torch.device("cpu"))
        assert subject.model.get_input_embeddings().weight.is_meta  # on disk, until a pass needs it
    again, edited = _runs(Subject(subject.model))
    assert torch.equal(again, plain)
    assert torch.equal(edited, halved)


def _runs(subject: Subject) -> tuple[Tensor, Tensor]:
    """Plain logits, and those with a few sites halved."""
    prompts = random_prompts(subject, seed=1)
    sites = [Site(0, Kind.RESID), Site(0, Kind.HEAD), Site(1, Kind.NEURON), Site(1, Kind.MLP), Site(1, Kind.K)]
    plain = subject.logits(prompts)
    with subject.editing({site: lambda act: act / 2 for site in sites}):
        halved = subject.logits(prompts)
    assert (plain - halved).abs().max() > 1e-2
    return plain, halved
