"""What every method owes: the planted circuit, the same one every time, and an interruption that changes nothing."""

import json
from pathlib import Path

import pytest
import torch

from subcircuit import plugins
from subcircuit.circuit import Circuit, tidy
from subcircuit.errors import Interrupted, NumericalError, UnsupportedModel, UsageError
from subcircuit.methods._base import Method
from subcircuit.methods.activation_patching import ActivationPatching
from subcircuit.methods.attribution_patching import AttributionPatching
from subcircuit.methods.causal_tracing import CausalTracing
from subcircuit.methods.circuit_lasso import CircuitLasso
from subcircuit.methods.edge_attribution import EdgeAttribution
from subcircuit.methods.edge_pruning import EdgePruning
from subcircuit.methods.greedy_removal import GreedyRemoval
from subcircuit.methods.node_pruning import NodePruning
from subcircuit.methods.random import Random
from subcircuit.progress import Progress
from subcircuit.sites import Kind
from tiny import HEADS, NEURONS
from tiny_task import planted_study

# each method with settings for tiny models; a new method adds its own
FINE = "head,channel,neuron"
QUICK: dict[str, Method] = {
    "activation-patching": ActivationPatching(kl=0.01, kinds=FINE, pairs=32, validation=16),
    "attribution-patching": AttributionPatching(kl=0.01, pairs=32, validation=16, batch=16),
    "causal-tracing": CausalTracing(k=5, metric="kl", direction="denoise", kinds="head,neuron", validation=16),
    "circuit-lasso": CircuitLasso(kl=0.01, pairs=32, validation=16, batch=16),
    "edge-attribution": EdgeAttribution(kl=0.01, pairs=32, validation=16, batch=16),
    "edge-pruning": EdgePruning(kl=0.01, pairs=32, validation=16, steps=30),
    "greedy-removal": GreedyRemoval(threshold=0.001, kinds="head,neuron", pairs=32, validation=16),
    "node-pruning": NodePruning(kl=0.01, pairs=32, validation=16, steps=30, lr=0.3, polish=4),
    "random": Random(kl=0.01, pairs=32, validation=16),
}
OTHER: dict[str, Method] = {
    "activation-patching": ActivationPatching(kl=0.02, kinds=FINE, pairs=32, validation=16),
    "attribution-patching": AttributionPatching(kl=0.02, pairs=32, validation=16, batch=16),
    "causal-tracing": CausalTracing(k=4, metric="kl", direction="denoise", kinds="head,neuron", validation=16),
    "circuit-lasso": CircuitLasso(kl=0.02, pairs=32, validation=16, batch=16),
    "edge-attribution": EdgeAttribution(kl=0.02, pairs=32, validation=16, batch=16),
    "edge-pruning": EdgePruning(kl=0.02, pairs=32, validation=16, steps=30),
    "greedy-removal": GreedyRemoval(threshold=0.002, kinds="head,neuron", pairs=32, validation=16),
    "node-pruning": NodePruning(kl=0.02, pairs=32, validation=16, steps=30, lr=0.3, polish=4),
    "random": Random(kl=0.02, pairs=32, validation=16),
}
CHANGED = dict.fromkeys(QUICK, "kl: 0.01 -> 0.02") | {
    "causal-tracing": "k: 5 -> 4",
    "greedy-removal": "threshold: 0.001 -> 0.002",
}
# a phase, a step after which a weight turns to NaN, and what is said about it
BREAKS: dict[str, tuple[str, int, str]] = {
    "activation-patching": ("patching", 4, r"an effect at 0\.channel is not finite"),
    "attribution-patching": ("attribution", 16, "the gradient at .* is not finite"),
    "causal-tracing": ("gates", 6, "a joint replacement's effect on kl is not finite"),
    "circuit-lasso": ("activations", 16, "an activation at .* is not finite"),
    "edge-attribution": ("attribution", 16, "the score of .* is not finite"),
    "edge-pruning": ("gates", 6, "the loss is nan at step 7"),
    "greedy-removal": ("removal", 6, r"an effect at 1\.neuron\.6 is not finite"),
    "node-pruning": ("gates", 6, "the loss is nan at step 7\nthe state of the step before is kept"),
    "random": ("threshold", 1, "the circuit's KL is nan"),
}
BY_EDGES = {"circuit-lasso", "edge-attribution", "edge-pruning"}  # they join heads and MLPs, and refuse encoders
BY_LOT = {"random"}  # it finds nothing but by luck
methods = pytest.mark.parametrize("method", plugins.names("methods"))
searches = pytest.mark.parametrize("method", [name for name in plugins.names("methods") if name not in BY_LOT])


@pytest.fixture(autouse=True)
def no_gradients() -> None:
    """Methods need them."""


def test_every_method_is_tried_here() -> None:
    assert sorted(QUICK) == sorted(OTHER) == sorted(CHANGED) == sorted(BREAKS) == plugins.names("methods")


@searches
def test_the_planted_circuit_is_found_exactly(method: str, family: str) -> None:
    """Two heads with all their channels, three neurons, and nothing else; in every family, encoders included."""
    subject, task = planted_study(family)
    if method in BY_EDGES and not subject.family.causal:
        with pytest.raises(UnsupportedModel, match="encoder"):
            QUICK[method].find(subject, task)
        return
    circuit = QUICK[method].find(subject, task)
    assert [str(node) for node in circuit.nodes(Kind.HEAD)] == [f"{layer}.head.{unit}" for layer, unit in HEADS]
    if method in BY_EDGES:
        assert [str(node) for node in circuit.nodes(Kind.MLP)] == ["0.mlp", "1.mlp"]
        return
    assert [str(node) for node in circuit.nodes(Kind.NEURON)] == [f"{layer}.neuron.{unit}" for layer, unit in NEURONS]
    width = subject.units(Kind.CHANNEL) // subject.units(Kind.HEAD)
    channels = {(node.site.layer, node.unit // width) for node in circuit.nodes(Kind.CHANNEL)}
    assert channels == (set(HEADS) if Kind.CHANNEL in circuit.sizes else set())
    assert circuit.origin.result["kl"] <= 0.01


@methods
def test_the_circuit_is_valid_and_tells_where_it_comes_from(method: str, tmp_path: Path) -> None:
    subject, task = planted_study()
    circuit = QUICK[method].find(subject, task)
    assert all(torch.equal(truth, circuit.kept[site]) for site, truth in tidy(circuit.kept).items())
    assert set(circuit.scores) == set(circuit.kept)
    origin = circuit.origin
    assert (origin.model, origin.family, origin.dtype) == ("planted-llama", "llama", "float32")
    assert (origin.task, origin.method, origin.pairs) == ("random", method, {"train": 32, "validation": 16})
    circuit.save(tmp_path)
    assert json.loads((tmp_path / "circuit.json").read_text())["origin"]["settings"] == origin.settings


@methods
def test_the_same_seed_finds_the_same_circuit(method: str) -> None:
    subject, task = planted_study()
    _require_equal(*(QUICK[method].find(subject, task) for _ in range(2)))


@methods
def test_the_search_leaves_the_model_as_it_was(method: str) -> None:
    subject, task = planted_study()
    before = {name: weight.clone() for name, weight in subject.model.state_dict().items()}
    QUICK[method].find(subject, task)
    assert all(torch.equal(weight, before[name]) for name, weight in subject.model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in subject.model.modules())
    assert not any(weight.grad is not None for weight in subject.model.parameters())


@methods
def test_progress_is_told_with_totals_that_hold(method: str) -> None:
    subject, task = planted_study()
    told: list[tuple[str, int, int]] = []
    QUICK[method].find(subject, task, progress=lambda *step, **facts: told.append(step))
    assert told and all(0 <= done <= total for _, done, total in told)
    last = {phase: done == total for phase, done, total in told}
    assert all(finished for phase, finished in last.items() if phase != "threshold")


# -- interruptions --------------------------------------------------------------------------------------------------


@methods
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_interrupted_and_resumed_is_uninterrupted(method: str, share: float, tmp_path: Path) -> None:
    subject, task = planted_study()
    told: list[str] = []
    whole = QUICK[method].find(subject, task, progress=lambda phase, *step, **facts: told.append(phase))
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        QUICK[method].find(subject, task, folder=tmp_path, progress=_stop_after(int(share * len(told))))
    _require_equal(QUICK[method].find(subject, task, folder=tmp_path), whole)


@methods
def test_resuming_with_other_settings_is_refused_and_they_are_named(method: str, tmp_path: Path) -> None:
    subject, task = planted_study()
    QUICK[method].find(subject, task, folder=tmp_path)
    with pytest.raises(UsageError, match="was started with other settings") as refusal:
        OTHER[method].find(subject, task, folder=tmp_path)
    assert CHANGED[method] in refusal.value.message


@methods
def test_nan_stops_the_search_which_goes_on_from_before_it(method: str, tmp_path: Path) -> None:
    """A weight turns to NaN between two steps. Once it is mended the search ends as if nothing had happened."""
    subject, task = planted_study()
    whole = QUICK[method].find(subject, task)
    weight = subject.model.get_submodule("model.layers.1.mlp.down_proj").weight
    assert isinstance(weight, torch.Tensor)
    sound, (breaking, after, said) = weight.clone(), BREAKS[method]

    def break_once(phase: str, done: int, total: int, **facts: float) -> None:
        if (phase, done) == (breaking, after):
            weight.fill_(torch.nan)

    with pytest.raises(NumericalError, match=said):
        QUICK[method].find(subject, task, folder=tmp_path, progress=break_once)
    weight.copy_(sound)
    _require_equal(QUICK[method].find(subject, task, folder=tmp_path), whole)


# -- the words of these tests ---------------------------------------------------------------------------------------


def _require_equal(found: Circuit, expected: Circuit) -> None:
    """Bit for bit."""
    for mine, theirs in ((found.kept, expected.kept), (found.scores, expected.scores)):
        assert list(mine) == list(theirs)
        assert all(torch.equal(mine[site], theirs[site]) for site in mine)
    assert found.origin.result == expected.origin.result


def _stop_after(calls: int) -> Progress:
    left = iter(range(calls))

    def stop(phase: str, done: int, total: int, **facts: float) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    return stop
