"""Plans against the real thing: what autograd keeps, which passes are made, what a process takes."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from planned import plan
from planned import random as random_model
from subcircuit import plugins
from subcircuit.errors import UnknownName
from subcircuit.ground_truth.planted import RandomTask, planted
from subcircuit.intervention import masking
from subcircuit.planning import formulas
from subcircuit.planning.estimate import draw, estimate, needs_of, work_of
from subcircuit.planning.machine import Machine
from subcircuit.planning.needs import METHODS, evidence
from subcircuit.planning.pace import Pace, assumed, measured
from subcircuit.planning.shape import Shape
from subcircuit.planning.work import Load, Passes
from subcircuit.sites import Kind
from subcircuit.subject import Subject
from tiny import random_prompts, tiny

DEEP: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 12},
    **{family: {"num_hidden_layers": 12} for family in ("gpt_neox", "llama", "mistral", "olmo2", "phi3", "qwen3")},
    "gemma2": {"num_hidden_layers": 12, "layer_types": ["full_attention"] * 12},
}
FEW = {"pairs": 8, "validation": 6, "batch": 4}
ROOMY = Machine("cpu", 1e12, 1, 1e12)
MIDDLE = {
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "vocab_size": 8192,
}
LARGE: dict[str, Any] = {**MIDDLE, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80}


def kept(subject: Subject, batch: int, length: int, kinds: list[Kind]) -> int:
    """Bytes that autograd keeps of a gated pass: every storage once, without those of the weights."""
    model, sites = subject.model, subject.sites(*kinds)
    weights = {each.untyped_storage().data_ptr() for each in (*model.parameters(), *model.buffers())}
    held: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        held.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    gates = {site: torch.ones(subject.units(site.kind), requires_grad=True) for site in sites}
    zeros = {site: torch.zeros(1, 1, 1, 1) for site in sites}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), masking(subject, gates, zeros):
        subject.logits(random_prompts(subject, batch, length))
    return sum(each.untyped_storage().nbytes() for at, each in held.items() if at not in weights)


@pytest.mark.parametrize("family", DEEP)
def test_what_autograd_keeps_is_what_the_formula_says(family: str) -> None:
    subject, kinds = tiny(family, **DEEP[family]), [Kind.CHANNEL, Kind.NEURON]
    told = 6 * 9 * formulas.kept_for_backward(Shape.of(subject), 9, kinds) / formulas.GROWN
    assert told == pytest.approx(kept(subject, 6, 9, kinds), rel=0.12)


def test_a_shape_is_read_from_the_configuration_alone() -> None:
    subject = tiny("llama", tie_word_embeddings=True)
    shape = Shape.of(subject)
    assert formulas.weights(shape) == sum(weight.numel() * 4 for weight in subject.model.parameters())
    assert shape.stored_as("bfloat16").itemsize == 2
    assert all(shape.width(kind) == subject.width(kind) for kind in (*Kind,))
    with pytest.raises(UnknownName, match="there are: bfloat16"):
        Shape.of(subject, "int4")


def test_operations_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    subject = tiny("llama", vocab_size=512)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        subject.logits(random_prompts(subject, 4, 9))
    told = formulas.operations(Shape.of(subject), 36, 9)
    assert told == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_every_method_has_a_plan() -> None:
    assert sorted(METHODS) == plugins.names("methods")


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("activation-patching", {}),
        ("attribution-patching", {"steps": 3}),
        ("causal-tracing", {"k": 3, "kinds": "head,mlp", "steps": 3, "polish": 4}),
        ("edge-attribution", {"path": "inputs", "steps": 2}),
        ("edge-pruning", {"steps": 3, "warm_start": 2}),
        ("greedy-removal", {}),
        ("node-pruning", {"steps": 12, "warm_start": 2, "polish": 6}),
        ("node-pruning", {"steps": 12, "warm_start": 2, "polish": 6, "cache_gb": 0.0}),
        ("random", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "no cache" if "cache_gb" in value else "",
)
def test_the_passes_are_those_that_are_made(method: str, settings: dict[str, Any]) -> None:
    subject = planted("llama")
    own = plugins.load("methods", method)(**FEW, **settings)
    task, made = RandomTask(subject), {True: 0, False: 0}
    pairs = task.pairs(subject.tokenizer, own.pairs, seed=own.seed, split="train")
    work = work_of(method, own, Shape.of(subject), draw(task, subject, own))

    def count(module: object, args: tuple[Tensor]) -> None:
        made[torch.is_grad_enabled()] += len(args[0])

    drawing = 2 * own.validation  # the task asks the model for answers
    handle = subject.model.get_input_embeddings().register_forward_pre_hook(count)
    own.find(subject, task, pairs)
    handle.remove()
    passes = needs_of(method, work).passes
    plain = [passes.forward[end] + passes.rewired[end] for end in (0, 1)]
    climbed = [passes.gradient[end] + passes.edges[end] for end in (0, 1)]
    assert plain[0] <= made[False] - drawing <= plain[1]
    assert climbed[0] <= made[True] <= climbed[1]


def real(method: str, family: str, model: dict[str, Any], settings: dict[str, Any], length: int) -> dict[str, float]:
    told = json.dumps({"model": model, "settings": settings, "length": length})
    script = Path(__file__).parents[1] / "planned.py"
    done = subprocess.run([sys.executable, str(script), method, family, told], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


SIZED = {"pairs": 16, "validation": 8, "batch": 16, "size": 0.2}


@pytest.mark.parametrize(
    ("method", "family", "model", "settings"),
    [
        ("node-pruning", "llama", MIDDLE, {**SIZED, "steps": 1, "polish": 0, "warm_start": 0}),
        pytest.param("attribution-patching", "gpt2", {"n_embd": 512, "n_inner": 2048}, SIZED, marks=pytest.mark.slow),
        pytest.param("edge-attribution", "llama", MIDDLE, {**SIZED, "path": "clean"}, marks=pytest.mark.slow),
        pytest.param("circuit-lasso", "llama", MIDDLE, {**SIZED, "channels": 4}, marks=pytest.mark.slow),
    ],
)
def test_the_peak_is_that_of_a_process(method: str, family: str, model: Any, settings: dict[str, Any]) -> None:
    found, told = real(method, family, model, settings, 48), plan(random_model(family, **model), method, settings, 48)
    assert told.peak == pytest.approx(found["peak"], rel=0.2), told.parts


def large(dtype: str = "float32", **settings: Any) -> Any:
    """Node pruning of a model of 70 billion weights, which nobody has to hold for that."""
    with torch.device("meta"):
        from transformers import AutoModelForCausalLM, LlamaConfig

        model = AutoModelForCausalLM.from_config(
            LlamaConfig(**{**LARGE, "num_attention_heads": 64, "num_key_value_heads": 8})
        )
    own = plugins.load("methods", "node-pruning")(**settings)
    return work_of("node-pruning", own, Shape.of(Subject(model), dtype), Load(192, 64, 20, 18.0))


def test_what_is_said_to_fit_does() -> None:
    work = large("bfloat16")
    peak = estimate("node-pruning", work, ROOMY).peak
    weights, least = formulas.weights(work.shape), replace(work.own, batch=1, cache_gb=0.0)
    assert 1.2e11 < weights < 1.5e11 and peak > weights
    tight = estimate("node-pruning", work, replace(ROOMY, memory=0.99 * peak))
    assert not tight.fits and tight.options
    for option in tight.options:
        name, _, value = option.removeprefix("--").partition(" ")
        typed = {name.replace("-", "_"): value if name == "kinds" else type(least.batch)(value)} if value else {}
        changed = replace(large("bfloat16", **typed), checkpointing=name == "checkpointing")
        assert estimate("node-pruning", changed, replace(ROOMY, memory=0.99 * peak)).fits, option
    hopeless = estimate("node-pruning", work, replace(ROOMY, memory=0.5 * weights))
    assert not hopeless.fits and hopeless.options == []
    four = Machine("cuda", 80 * 2**30, 4, 1e12)
    assert "--device spread" in estimate("node-pruning", work, four).options
    assert estimate("node-pruning", work, four, spread=True).fits


def test_memory_on_a_cpu_is_shared_by_processes_and_time_too() -> None:
    work = large("bfloat16")
    one, two = (estimate("node-pruning", work, ROOMY, processes=count) for count in (1, 2))
    assert two.memory == one.memory / 2 and two.peak == one.peak
    assert one.seconds[1] / 2 < two.seconds[1] < 0.6 * one.seconds[1]  # what a pass takes to start stays


def test_a_measured_step_gives_a_narrower_time_than_an_assumed_one() -> None:
    subject, load = planted("llama"), Load(8, 6, 6, 6.0)
    task = RandomTask(subject)
    pairs = task.pairs(subject.tokenizer, 8)
    pace = measured(subject, pairs, subject.sites(Kind.HEAD), 4, edges=True)
    assert pace.measured and not assumed(Shape.of(subject), load, "cpu").measured
    for span in (pace.forward, pace.gradient, pace.rewired, pace.edges):
        assert 0 < span[0] <= span[1]
    even = Pace((1.0, 1.0), (2.0, 2.0), (3.0, 3.0), (4.0, 4.0), True)
    low, high = even.seconds(Passes((1, 2), (1, 1), (0, 1), (1, 1)), 4, 2)
    assert (low, high) == pytest.approx((0.85 * 7 / 2, 1.3 * 11 / 2))


def test_evidence_takes_more_passes_with_more_controls() -> None:
    work = large()
    few, many = (evidence(work, 200, controls) for controls in (5, 20))
    assert many.passes.forward[0] - few.passes.forward[0] >= 15 * 200
    assert asdict(many.passes)["gradient"] == asdict(few.passes)["gradient"]
