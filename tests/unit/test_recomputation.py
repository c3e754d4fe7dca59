"""Gradient checkpointing: layers run twice, keep their inputs alone, and every number is what it was."""

import gc
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from commands import Ask
from subcircuit.errors import UsageError
from subcircuit.methods.attribution_patching import AttributionPatching
from subcircuit.methods.edge_attribution import EdgeAttribution
from subcircuit.methods.edge_pruning import EdgePruning
from subcircuit.methods.node_pruning import NodePruning
from subcircuit.planning import formulas
from subcircuit.planning.shape import Shape
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from tiny import random_pairs, random_prompts, tiny
from tiny_folder import Study
from tiny_task import RandomTask, planted_study

FAMILIES = ["llama", "gpt2", "gemma2"]
FEW: dict[str, Any] = {"pairs": 6, "validation": 4, "batch": 4}
METHODS = {
    "node pruning": NodePruning(size=0.3, steps=3, warm_start=2, **FEW),
    "node pruning, all kinds": NodePruning(
        size=0.3, steps=2, kinds="block,attn,mlp,head,kv,channel,neuron,mlp_out", warm_start=0, cache_gb=0.0, **FEW
    ),
    "attribution patching": AttributionPatching(size=0.3, steps=2, **FEW),
    "edge attribution": EdgeAttribution(size=0.1, path="inputs", steps=2, **FEW),
}


def _both(family: str, **config: Any) -> tuple[Subject, Subject]:
    """The same model without checkpointing and with it."""
    model, tokenizer = tiny(family, **config).model, planted_study()[0].tokenizer
    plain = Subject(model, tokenizer, name="tiny")
    return plain, Subject(model, tokenizer, name="tiny", checkpointing=True)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_methods_find_the_same(method: str, family: str) -> None:
    plain, again = (METHODS[method].find(subject, RandomTask(subject)) for subject in _both(family))
    for site, score in plain.scores.items():
        torch.testing.assert_close(again.scores[site], score, rtol=0, atol=1e-6)
        assert (again.kept[site] == plain.kept[site]).all()
    assert (plain.edges is None) == (method != "edge attribution")
    if plain.edges is not None:
        assert again.edges is not None
        torch.testing.assert_close(again.edges.scores, plain.edges.scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_run_twice_for_a_gradient_and_once_without(family: str) -> None:
    plain, again = _both(family)
    assert _calls(plain, grad=True) == len(plain)
    assert _calls(again, grad=True) == 2 * len(again)
    assert _calls(again, grad=False) == len(again)


def _calls(subject: Subject, *, grad: bool) -> int:
    """How often projections after the heads run in a forward pass, and a backward pass down to the first layer."""
    calls, prompts = [0], random_prompts(subject)

    def counted(module: nn.Module, args: tuple[Any, ...]) -> None:
        calls[0] += 1

    modules = [subject.layout.tap(site)[0] for site in subject.sites(Kind.HEAD)]
    handles = [module.register_forward_pre_hook(counted) for module in modules]
    added = torch.zeros(1, requires_grad=True)
    with torch.set_grad_enabled(grad), subject.editing({Site(0, Kind.Q): lambda act: act + added}):
        logits = subject.logits(prompts)
    if grad:
        torch.autograd.grad(logits.sum(), added)
    for handle in handles:
        handle.remove()
    return calls[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_runs_again_under_the_hooks_of_its_forward_pass(family: str) -> None:
    """The block of edits has ended when the gradient is taken, and another one stands."""
    slopes = []
    for subject in _both(family):
        prompts, site = random_pairs(subject, 3).clean, Site(1, Kind.NEURON)
        added = torch.ones(1, requires_grad=True)
        with subject.editing({site: lambda act, added=added: act + added**3}):  # type: ignore[misc]
            logits = subject.logits(prompts)
        with subject.editing({Site(layer, Kind.NEURON): torch.zeros_like for layer in range(len(subject))}):
            slopes += torch.autograd.grad(logits.square().sum(), added)
            assert not subject.logits(prompts).equal(logits)  # the other edits stand again
        assert "forward" not in vars(subject.layout.layers[0])
    assert slopes[0].abs() > 1e-3
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-5, atol=0)


def test_layers_are_as_before_also_when_a_pass_fails() -> None:
    _, subject = _both("llama")

    def fail(act: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), subject.editing({Site(1, Kind.NEURON): fail}):
        subject.logits(random_pairs(subject, 2).clean)
    assert not any("forward" in vars(layer) for layer in subject.layout.layers)


def test_what_is_kept_of_a_pass_are_the_inputs_of_layers() -> None:
    """Tensors that live on with the graph; those that autograd itself would keep cannot be seen, and are the plan's."""
    _, subject = _both("llama", num_hidden_layers=12)
    prompts, added = random_prompts(subject, 6, 9), torch.zeros(1, requires_grad=True)
    subject.logits(prompts)
    before = _alive()
    with subject.editing({Site(0, Kind.RESID): lambda act: act + added}):
        logits = subject.logits(prompts)
    held = sum(size for at, size in _alive().items() if at not in before) - logits.untyped_storage().nbytes()
    shape = Shape.of(subject)
    layer = formulas.kept_for_backward(shape, 9, []) / len(subject)
    told = 6 * 9 * (formulas.kept_for_recomputation(shape, 9, []) - layer) / formulas.GROWN
    random = len(subject) * torch.get_rng_state().nbytes
    assert held == pytest.approx(told + random, rel=0.1)


def _alive() -> dict[int, int]:
    """Bytes of every storage that an object refers to."""
    gc.collect()
    tensors = (each for each in gc.get_objects() if type(each) is Tensor)
    return {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}


def test_edge_pruning_refuses() -> None:
    _, subject = _both("llama")
    with pytest.raises(UsageError, match="cannot run layers again"):
        EdgePruning(steps=1, **FEW).find(subject, RandomTask(subject))


def test_the_command_line_finds_the_same(ask: Ask, files: Study, tmp_path: Path) -> None:
    given = ("--model", files.model, "--task", files.prompts, "--device", "cpu", "--steps", 2, "--size", 0.3)
    few = ("--pairs", 8, "--validation", 4, "--batch", 8)
    for name, more in {"plain": (), "again": ("--checkpointing",)}.items():
        assert ask("find", "attribution-patching", *given, *few, "--out", tmp_path / name, *more).code == 0
    plain, again = (load_file(tmp_path / name / "scores.safetensors") for name in ("plain", "again"))
    assert all(torch.allclose(again[name], score, rtol=0, atol=1e-6) for name, score in plain.items())
    refused = ask("find", "edge-pruning", *given, *few, "--out", tmp_path / "edges", "--checkpointing", "--json")
    assert refused.code == 2 and "leave checkpointing out" in json.dumps(refused.json)


def test_a_plan_takes_less_memory(ask: Ask, files: Study, tmp_path: Path) -> None:
    given = ("--model", files.model, "--task", files.prompts, "--device", "cpu", "--no-measure", "--json")
    plain, again = (
        ask("plan", "find", "node-pruning", *given, "--out", tmp_path, *more).json["plan"]["peak"]
        for more in ((), ("--checkpointing",))
    )
    assert again < plain
