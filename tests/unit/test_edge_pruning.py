"""Edge pruning: planted edges are found, budgets and sizes hold, interruptions change nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from subcircuit.circuit import Circuit
from subcircuit.edge_tables import Edges, connected, live_nodes
from subcircuit.edges import rewired_logits
from subcircuit.errors import Interrupted, NumericalError, UnsupportedModel, UsageError
from subcircuit.ground_truth.cases import cases
from subcircuit.ground_truth.planted import planted_edges
from subcircuit.methods._edge_study import EdgeStudy
from subcircuit.methods.edge_attribution import EdgeAttribution
from subcircuit.methods.edge_pruning import EdgePruning
from subcircuit.metrics import kl
from subcircuit.progress import Progress, silent
from subcircuit.sites import Kind
from subcircuit.subject import Subject
from subcircuit.wiring import Wiring
from tiny import tiny
from tiny_edges import DECODERS, reference_of
from tiny_task import RandomTask, planted_study

QUICK = EdgePruning(kl=0.01, pairs=32, validation=16, steps=30)


@pytest.fixture(scope="module")
def study() -> tuple[Subject, RandomTask]:
    """A random model of four layers, in which everything matters a little."""
    model = tiny("llama", num_hidden_layers=4).model
    model.get_output_embeddings().weight.mul_(0.7)
    subject = Subject(model, planted_study()[0].tokenizer, name="tiny-llama")
    return subject, RandomTask(subject)


# -- what is found -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", sorted(set(DECODERS) - {"olmo2"}))  # a norm over all its queries ties them together
def test_only_planted_edges_are_kept_and_they_join_all_planted_heads(decoder: str) -> None:
    subject, task = planted_study(decoder)
    circuit = QUICK.find(subject, task)
    planted, found = planted_edges(subject), set(_edges(circuit).names())
    assert found <= planted
    assert len(found) > len(planted) / 2
    assert [str(node) for node in circuit.nodes(Kind.HEAD)] == ["0.head.1", "1.head.2"]
    assert circuit.origin.result["kl"] <= circuit.origin.result["budget"] == 0.01


@pytest.mark.parametrize(
    "options",
    [
        {"gates": "straight-through"},
        {"gates": "sampled"},
        {"warm_start": 0},
        {"open": 0.5},
        {"writers": True},
        {"reference": "mean"},
        {"reference": "zero"},
        {"reference": "resample"},
    ],
    ids=str,
)
def test_every_option_finds_planted_edges_alone(options: dict[str, object]) -> None:
    subject, task = planted_study()
    circuit = replace(QUICK, **options).find(subject, task)  # type: ignore[arg-type]
    assert set(_edges(circuit).names()) <= planted_edges(subject)
    assert [str(node) for node in circuit.nodes(Kind.HEAD)] == ["0.head.1", "1.head.2"]
    assert circuit.origin.result["kl"] <= 0.01


def test_it_needs_fewer_edges_than_attribution_for_the_same_budget(study: tuple[Subject, RandomTask]) -> None:
    learned = EdgePruning(pairs=96, validation=32, steps=80).find(*study)
    attributed = EdgeAttribution(pairs=96, validation=32).find(*study)
    assert learned.origin.result["kl"] <= 0.3
    assert learned.sizes["edge"].kept < 0.85 * attributed.sizes["edge"].kept


@pytest.mark.parametrize("program", ["detect-pattern", "reverse", "sort"])
@pytest.mark.parametrize("options", [{}, {"warm_start": 0}], ids=str)
def test_of_compiled_programs_exactly_the_edges_that_carry_tokens_are_kept(
    program: str, options: dict[str, object]
) -> None:
    """Their attention is saturated, and every edge needs all others: once some are shut none has a gradient."""
    (case,) = cases([f"compiled-{program}"])
    pairs = case.task.pairs(case.subject.tokenizer, 64, split="train")
    method = replace(EdgePruning(kl=0.01, validation=32), **options)  # type: ignore[arg-type]
    edges = _edges(method.find(case.subject, case.task, pairs))
    assert set(edges.names()) == {name for name, carries in case.edges.items() if carries == "token"}
    assert edges.scores[edges.kept].min() > edges.scores[edges.wiring.allowed & ~edges.kept].quantile(0.9)


def test_the_circuit_is_connected_and_its_kl_is_what_it_says(study: tuple[Subject, RandomTask]) -> None:
    subject, task = study
    circuit = replace(QUICK, kl=0.3).find(subject, task)
    wiring, scores, kept = (edges := _edges(circuit)).wiring, edges.scores, edges.kept
    assert wiring == Wiring(layers=4, heads=4, groups=2)
    assert torch.equal(connected(wiring, kept), kept)
    assert all(torch.equal(circuit.kept[site], truth) for site, truth in live_nodes(wiring, kept).items())
    assert torch.equal((scores > 0) & (scores < 1), wiring.allowed)  # probabilities, where there is an edge
    assert circuit.origin.result["share"] == pytest.approx(int(kept.sum()) / 343)
    pairs = task.pairs(subject.tokenizer, QUICK.validation, seed=0, split="validation")
    with torch.no_grad():
        full = subject.logits(pairs.clean)
    logits = rewired_logits(subject, wiring, pairs.clean, kept, reference_of(subject, pairs))
    assert circuit.origin.result["kl"] == pytest.approx(float(kl(full, logits).mean()), abs=1e-5)


def test_of_gates_at_the_lower_limit_the_most_promising_opens_first() -> None:
    """A planted edge lies there together with all that are not planted; one more edge is all it takes."""
    study = EdgeStudy("edge-pruning", QUICK, *planted_study())
    planted = planted_edges(study.subject)
    log_alpha = torch.full(study.wiring.allowed.shape, -6.0)
    for name in planted - {"1.mlp->logits"}:
        log_alpha[study.wiring.parse(name)] = 3.0
    kept = QUICK._hardened(study, log_alpha, 6.0, silent)
    assert {study.wiring.name(*edge) for edge in kept.nonzero().tolist()} == planted


def test_a_budget_of_next_to_nothing_is_met_by_the_whole_model(study: tuple[Subject, RandomTask]) -> None:
    circuit = replace(QUICK, kl=1e-12, steps=2).find(*study)
    assert circuit.origin.result["kl"] == 0
    assert torch.equal(_edges(circuit).kept, _edges(circuit).wiring.allowed)


@pytest.mark.parametrize("size", [0.05, 0.3])
def test_a_target_size_is_respected(study: tuple[Subject, RandomTask], size: float) -> None:
    """Whatever is not connected is dropped, so that it may be missed from below."""
    circuit = replace(QUICK, size=size).find(*study)
    assert 0.5 * size <= circuit.origin.result["share"] <= size + 1 / 343
    assert "budget" not in circuit.origin.result


def test_the_same_seed_finds_the_same_circuit_with_and_without_a_cache(study: tuple[Subject, RandomTask]) -> None:
    first, second, fresh = (replace(QUICK, steps=5, cache_gb=size).find(*study) for size in (1.0, 1.0, 0.0))
    assert torch.equal(_edges(first).scores, _edges(second).scores)
    assert first.origin.result["cache_bytes"] > 0 == fresh.origin.result["cache_bytes"]
    torch.testing.assert_close(_edges(first).scores, _edges(fresh).scores, rtol=1e-3, atol=1e-3)


def test_what_is_found_is_read_back(tmp_path: Path) -> None:
    circuit = QUICK.find(*planted_study())
    circuit.save(tmp_path)
    found = Circuit.load(tmp_path)
    assert found.origin == circuit.origin
    assert _edges(found).names() == _edges(circuit).names()
    assert torch.equal(_edges(found).scores, _edges(circuit).scores)


# -- interruptions and refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"gates": "sampled", "writers": True}], ids=str)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_interrupted_and_resumed_is_uninterrupted(options: dict[str, object], share: float, tmp_path: Path) -> None:
    study, method = planted_study(), replace(QUICK, **options)  # type: ignore[arg-type]
    told: list[tuple[str, int, int]] = []
    whole = method.find(*study, progress=lambda *step, **facts: told.append(step))
    assert all(0 <= done <= total for _, done, total in told)
    with pytest.raises(Interrupted, match="what it has computed is kept"):
        method.find(*study, folder=tmp_path, progress=_after(int(share * len(told)), KeyboardInterrupt))
    resumed = method.find(*study, folder=tmp_path)
    assert torch.equal(_edges(resumed).scores, _edges(whole).scores)
    assert torch.equal(_edges(resumed).kept, _edges(whole).kept)
    assert resumed.origin.result == whole.origin.result


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_search_that_went_back_to_earlier_gates_is_resumed_as_well(share: float, tmp_path: Path) -> None:
    """On a compiled program, where the first attempt closes too much."""
    (case,) = cases(["compiled-sort"])
    study, method = (case.subject, case.task), EdgePruning(kl=0.01, pairs=64, validation=32, steps=100)
    kls: list[float] = []
    whole = method.find(*study, progress=lambda *step, **facts: kls.append(facts.get("kl", 0.0)))
    far = [place for place, kl in enumerate(kls) if kl > 0.02]
    assert any(kls[place] == 0 for place in range(far[0], far[-1]))  # it did go back
    with pytest.raises(Interrupted):
        method.find(*study, folder=tmp_path, progress=_after(int(share * len(kls)), KeyboardInterrupt))
    resumed = method.find(*study, folder=tmp_path)
    assert torch.equal(_edges(resumed).scores, _edges(whole).scores)
    assert resumed.origin.result == whole.origin.result


def test_without_a_folder_an_interruption_is_the_callers() -> None:
    with pytest.raises(KeyboardInterrupt):
        QUICK.find(*planted_study(), progress=_after(5, KeyboardInterrupt))


def test_the_state_of_another_search_is_refused(tmp_path: Path) -> None:
    replace(QUICK, steps=2).find(*planted_study(), folder=tmp_path)
    with pytest.raises(UsageError, match=r"was started with other settings \(lr: 0\.3 -> 0\.2\)"):
        replace(QUICK, steps=2, lr=0.2).find(*planted_study(), folder=tmp_path)


def test_nan_stops_the_search_which_goes_on_from_before_it(tmp_path: Path) -> None:
    """A weight turns to NaN after step 6. Once it is mended the search ends as if nothing had happened."""
    subject, task = planted_study()
    whole = QUICK.find(subject, task)
    weight = subject.model.get_submodule("model.layers.1.mlp.down_proj").weight
    assert isinstance(weight, Tensor)
    sound = weight.clone()

    def break_at_six(phase: str, done: int, total: int, **facts: float) -> None:
        if (phase, done) == ("gates", 6):
            weight.fill_(torch.nan)

    with pytest.raises(NumericalError, match="the loss is nan at step 7") as stop:
        QUICK.find(subject, task, folder=tmp_path, progress=break_at_six)
    assert "the state of the step before is kept" in stop.value.cure
    weight.copy_(sound)
    assert torch.equal(_edges(QUICK.find(subject, task, folder=tmp_path)).scores, _edges(whole).scores)


def test_the_search_leaves_the_model_as_it_was() -> None:
    subject, task = planted_study()
    before = {name: weight.clone() for name, weight in subject.model.state_dict().items()}
    replace(QUICK, steps=2).find(subject, task)
    assert all(torch.equal(weight, before[name]) for name, weight in subject.model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in subject.model.modules())


def test_encoders_are_refused_before_anything_runs() -> None:
    with pytest.raises(UnsupportedModel, match="this bert model is an encoder"):
        QUICK.find(*planted_study("bert"), progress=_after(0, AssertionError))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kl": 0}, "a KL budget of 0"),
        ({"size": 1.5}, "size is 1.5"),
        ({"steps": 0}, "steps is 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"open": 20}, "open is 20"),
        ({"warm_start": -1}, "warm_start is -1"),
        ({"batch": 0}, "batch is 0"),
        ({"gates": "mean"}, "'mean'; did you mean 'median'"),
        ({"reference": "corupt"}, "'corupt'; did you mean 'corrupt'"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_once(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as refusal:
        EdgePruning(**settings)  # type: ignore[arg-type]
    assert words in refusal.value.message


# -- the words of these tests ------------------------------------------------------------------------------------------


def _edges(circuit: Circuit) -> Edges:
    assert circuit.edges is not None
    return circuit.edges


def _after(calls: int, stop: type[BaseException]) -> Progress:
    left = iter(range(calls))

    def tell(phase: str, done: int, total: int, **facts: float) -> None:
        if next(left, None) is None:
            raise stop

    return tell
