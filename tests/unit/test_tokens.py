"""Effects by token: again by hooks on the modules themselves, by hand where the model is linear, and summed."""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import Tensor

from commands import Ask, schema
from edge_circuits import random_circuit
from subcircuit.circuit import Circuit
from subcircuit.errors import DataError
from subcircuit.evaluation import Evidence, TokenEffects, evidence, token_effects
from subcircuit.evaluation.tokens import FIRST, STEPS, WORST, TokenRow
from subcircuit.loading import load
from subcircuit.methods.causal_tracing import CausalTracing
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs
from subcircuit.wiring import Wiring
from tiny_circuit import by_hand, kept_nodes, planted_circuit
from tiny_folder import study
from tiny_tracing import FEW, RandomTask, random_study

HEADS = [(0, unit) for unit in range(4)]  # all of layer 0, none of layer 1
NEURONS = [(layer, unit) for layer in range(2) for unit in range(48)]

Place = tuple[int, str]  # layer, branch


def test_they_are_those_of_gates_on_the_modules_themselves() -> None:
    subject, task = random_study()
    found = _effects(subject, by_hand(kept_nodes(subject, HEADS, NEURONS)), task)
    pairs = task.pairs(subject.tokenizer, 20, split="test")
    for row in found.prompts[:3]:
        expected = _by_hooks(subject, pairs[[row.row]], closed=[(1, "attn")])
        for branch, layers in row.effects.items():
            assert torch.tensor(layers) == pytest.approx(expected[branch], abs=2e-3)
    assert torch.tensor(found.prompts[0].effects["attn"])[1].abs().max() == 0


def test_in_a_linear_model_they_are_what_the_answers_weights_read() -> None:
    """One layer without norms, its MLP closed: only the judged position is read, and in proportion."""
    subject, task = random_study("tracr", num_hidden_layers=1)
    circuit = by_hand(kept_nodes(subject, [(0, unit) for unit in range(4)], []))
    pairs, site = task.pairs(subject.tokenizer, 20, split="test"), Site(0, Kind.ATTN)
    clean, corrupt = (subject.record(each, [site])[1][site].flatten(2) for each in (pairs.clean, pairs.corrupt))
    weight = subject.model.get_output_embeddings().weight
    for row in _effects(subject, circuit, task).prompts:
        at, reads = row.at, weight[pairs.right[row.row, 0]] - weight[pairs.wrong[row.row, 0]]
        expected = torch.zeros(len(row.clean))
        expected[at] = (clean[row.row, at] - corrupt[row.row, at]) @ reads
        assert torch.tensor(row.effects["attn"][0]) == pytest.approx(expected, rel=1e-3, abs=1e-5)
        assert row.gain == pytest.approx(float(expected.sum()), rel=1e-3)


@pytest.mark.parametrize("reference", ["corrupt", "mean", "zero", "resample"])
def test_they_add_up_to_what_the_circuit_has_above_the_empty_one(
    reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subcircuit.evaluation.tokens.STEPS", 100)  # near zero, norms make the way steep
    subject, task = random_study("gpt2")
    circuit = by_hand(kept_nodes(subject, [(0, 1), (1, 0), (1, 2)], NEURONS[:60]), reference=reference)
    table = evidence(subject, circuit, task, n=20, controls=1)
    for row in token_effects(subject, circuit, task, table).prompts:
        has, empty = (table.prompts[name][row.row] for name in ("logit_difference", "empty_logit_difference"))
        assert row.gain == pytest.approx(has - empty, abs=2e-3)
        assert _total(row) == pytest.approx(row.gain, abs=0.05 + 0.02 * abs(row.gain))


def test_of_a_causal_tracing_they_add_up_to_its_effect() -> None:
    subject, task = random_study()
    circuit = CausalTracing(k=3, **FEW).find(subject, task)
    table = evidence(subject, circuit, task, n=12, controls=1)
    found = token_effects(subject, circuit, task, table)
    assert found.metric == "odds-ratio"
    assert found.setting.set == "the circuit"
    for row in found.prompts:
        assert row.gain == pytest.approx(table.prompts["effect"][row.row], rel=2e-3, abs=2e-3)
        assert _total(row) == pytest.approx(row.gain, rel=0.15, abs=0.1)


def test_of_edges_they_are_those_of_the_nodes_that_are_joined() -> None:
    subject, task = random_study()
    edges = random_circuit(Wiring.of(subject.layout))
    table = evidence(subject, edges, task, n=4, controls=1)
    joined = by_hand(dict(edges.kept), pairs=edges.origin.pairs)
    whole = token_effects(subject, edges, task, table)
    assert whole.setting.granularity == "node"
    assert whole.prompts == token_effects(subject, joined, task, table).prompts


def test_the_first_prompts_and_the_worst_are_there_with_their_words() -> None:
    subject, task = random_study()
    circuit = by_hand(kept_nodes(subject, HEADS, NEURONS[:20]))
    table = evidence(subject, circuit, task, n=30, controls=1)
    rows = token_effects(subject, circuit, task, table).prompts
    pairs = task.pairs(subject.tokenizer, 30, split="test")
    rest = sorted(range(FIRST, 30), key=lambda row: -table.prompts["kl"][row])[:WORST]
    assert [row.row for row in rows] == [*range(FIRST), *rest]
    assert [row.first for row in rows] == [True] * FIRST + [False] * WORST
    last = rows[-1]
    words = subject.tokenizer.convert_ids_to_tokens(pairs.corrupt.ids[last.row].tolist())
    assert last.corrupt == words
    assert last.answers == subject.tokenizer.convert_ids_to_tokens(pairs.right[last.row].tolist())


def test_long_prompts_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, task = random_study()
    monkeypatch.setattr("subcircuit.evaluation.tokens.MOST", 6 * 2 * 2 * 7)  # seven prompts of six tokens
    found = _effects(subject, by_hand(kept_nodes(subject, HEADS, NEURONS)), task)
    assert [row.first for row in found.prompts] == [True] * 3 + [False] * WORST


def test_a_file_comes_back_and_knows_whose_it_is(tmp_path: Path) -> None:
    subject, task = random_study()
    circuit, other = (by_hand(kept_nodes(subject, HEADS, NEURONS[:n])) for n in (30, 31))
    table, second = (evidence(subject, each, task, n=4, controls=1) for each in (circuit, other))
    found = token_effects(subject, circuit, task, table)
    found.save(tmp_path)
    assert TokenEffects.load(tmp_path) == found
    assert found.of(table)
    assert not found.of(second)
    (tmp_path / "tokens.json").write_text('{"prompts": 3}')
    with pytest.raises(DataError, match="effects by token") as error:
        TokenEffects.load(tmp_path)
    assert "subcircuit score" in error.value.cure


def test_score_writes_them(ask: Ask, tmp_path: Path) -> None:
    files = study(tmp_path)
    subject = load(str(files.model))
    origin = {"model": str(files.model), "revision": subject.revision, "task": str(files.prompts)}
    by_hand(dict(planted_circuit(subject).kept), **origin).save(run := tmp_path / "run")
    assert ask("score", run, "--controls", "1", "--pairs", "12", "--quiet").code == 0
    assert TokenEffects.load(run).of(Evidence.load(run))
    jsonschema.validate(json.loads((run / "tokens.json").read_text()), schema("tokens"))


# -- the words of these tests ---------------------------------------------------------------------------------------


def _effects(subject: Subject, circuit: Circuit, task: RandomTask) -> TokenEffects:
    return token_effects(subject, circuit, task, evidence(subject, circuit, task, n=20, controls=1))


def _total(row: TokenRow) -> float:
    return sum(value for layers in row.effects.values() for layer in layers for value in layer)


def _by_hooks(subject: Subject, pair: Pairs, closed: list[Place]) -> dict[str, Tensor]:
    """Integrated gradients of one pair, with what each branch's module gives out mixed by plain hooks."""
    modules = {
        (layer, branch): subject.module(layer, path)
        for layer in range(len(subject))
        for branch, path in (("attn", "self_attn"), ("mlp", "mlp"))
    }
    kept: dict[Place, Tensor] = {}
    _run(subject, pair.corrupt.ids, modules, lambda place, value: kept.setdefault(place, value.detach()))
    shape = (1, pair.clean.ids.shape[1], 1)
    total = {place: torch.zeros(shape) for place in modules}
    for step in range(STEPS):
        gates = {
            place: torch.full(shape, 0.0 if place in closed else (step + 0.5) / STEPS, requires_grad=True)
            for place in modules
        }
        logits = _run(subject, pair.clean.ids, modules, partial(_mixed, gates, kept))[0, int(pair.clean.at[0])]
        gained = logits[pair.right[0, 0]] - logits[pair.wrong[0, 0]]
        for place, slope in zip(gates, torch.autograd.grad(gained, list(gates.values())), strict=True):
            if place not in closed:
                total[place] += slope / STEPS
    return {
        branch: torch.stack([total[layer, branch].flatten() for layer in range(len(subject))])
        for branch in ("attn", "mlp")
    }


def _mixed(gates: Mapping[Place, Tensor], kept: Mapping[Place, Tensor], place: Place, own: Tensor) -> Tensor:
    return gates[place] * own + (1 - gates[place]) * kept[place]


def _run(subject: Subject, ids: Tensor, modules: dict[Place, Any], edit: Callable[[Any, Tensor], Any]) -> Any:
    def hook(place: Place) -> Callable[..., Any]:
        def put(module: Any, inputs: Any, out: Any) -> Any:
            return (edit(place, out[0]), *out[1:]) if isinstance(out, tuple) else edit(place, out)

        return put

    with ExitStack() as stack:
        for place, module in modules.items():
            stack.callback(module.register_forward_hook(hook(place)).remove)
        return subject.model(input_ids=ids).logits
