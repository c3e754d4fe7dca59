"""All of the evidence at once: for circuits of nodes and of edges, as a file, and on the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import torch
from pydantic import BaseModel
from torch import Tensor

from commands import Ask, schema
from subcircuit import metrics
from subcircuit.circuit import Circuit
from subcircuit.edge_tables import Edges, live_nodes
from subcircuit.errors import DataError
from subcircuit.evaluation import Evidence, FullEvidence, evidence, full_evidence
from subcircuit.evaluation.curves import curve
from subcircuit.evaluation.edge_panel import EdgePanel, EdgeRanking
from subcircuit.evaluation.setting import Result
from subcircuit.loading import load
from subcircuit.wiring import Wiring
from tiny import HEADS
from tiny_circuit import ORIGIN, by_hand, planted_circuit, scores_of
from tiny_folder import study
from tiny_task import planted_study

Choose = Callable[[Wiring], Tensor]


@pytest.fixture(scope="module")
def found() -> tuple[Evidence, FullEvidence]:
    subject, task = planted_study()
    return full_evidence(subject, planted_circuit(subject), task, n=24, controls=2, exact=4, seeds=1, optimal_steps=2)


# -- nodes ----------------------------------------------------------------------------------------------------------


def test_of_a_planted_circuit_all_comes_out_as_it_must(found: tuple[Evidence, FullEvidence]) -> None:
    table, full = found
    assert table.circuit.faithfulness is not None
    assert table.circuit.faithfulness.mean == pytest.approx(1, abs=1e-5)
    assert full.complement.scores.faithfulness is not None
    assert full.complement.scores.faithfulness.mean == pytest.approx(0, abs=1e-5)
    assert not full.equivalence.rejected
    assert full.cpr is not None and full.cmd is not None
    assert full.cpr.mean > 0.85 and full.cmd.mean < 0.15
    assert [each.over for each in full.stability] == ["prompts"]
    assert full.optimal is not None and full.optimal.kl is not None
    assert full.optimal.kl.mean == pytest.approx(0, abs=1e-4)


def test_the_table_is_that_of_evidence_alone(found: tuple[Evidence, FullEvidence]) -> None:
    subject, task = planted_study()
    assert evidence(subject, planted_circuit(subject), task, n=24, controls=2) == found[0]


def test_every_number_says_under_which_setting_it_was_measured(found: tuple[Evidence, FullEvidence]) -> None:
    table, full = found
    results: list[BaseModel] = [table]
    for name in FullEvidence.model_fields:
        value = getattr(full, name)
        results += [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, BaseModel)]
    assert len(results) == 12
    for each in results:
        setting = each.setting  # type: ignore[attr-defined]
        assert isinstance(each, Result | Evidence)
        assert set(setting.model_dump()) == {"granularity", "component", "ablation", "positions", "direction", "set"}
        assert setting.granularity == "node" and "neuron" in setting.component


def test_the_file_comes_back_and_keeps_to_its_schema(found: tuple[Evidence, FullEvidence], tmp_path: Path) -> None:
    full = found[1]
    full.save(tmp_path)
    assert FullEvidence.load(tmp_path) == full
    jsonschema.validate(json.loads((tmp_path / "full.json").read_text()), schema("full"))
    (tmp_path / "full.json").write_text("{}")
    with pytest.raises(DataError, match=r"full\.json is not a file of full evidence"):
        FullEvidence.load(tmp_path)
    with pytest.raises(DataError, match=r"full\.json is missing"):
        FullEvidence.load(tmp_path / "nowhere")


# -- edges ----------------------------------------------------------------------------------------------------------


def test_all_edges_are_the_model_and_none_the_reference_run() -> None:
    panel = _edge_panel(lambda wiring: wiring.allowed)
    assert torch.allclose(panel.chosen["logit_difference"], panel.whole["logit_difference"], atol=1e-4)
    assert torch.allclose(panel.complement["logit_difference"], panel.empty["logit_difference"], atol=1e-4)
    pairs = panel.pairs
    with torch.no_grad():
        corrupt = panel.subject.logits(pairs.corrupt)
    assert torch.allclose(
        panel.empty["logit_difference"], metrics.logit_difference(corrupt, pairs.right, pairs.wrong), atol=1e-3
    )


def test_the_edges_of_planted_writers_are_faithful_and_ten_sizes_cost_few_passes() -> None:
    panel = _edge_panel(_planted_edges)
    found = curve(EdgeRanking(panel))
    enough = int(panel.edges.kept.sum())
    assert found.total == int(panel.edges.wiring.allowed.sum())
    assert found.setting.granularity == "edge"
    for point in found.points:
        assert point.faithfulness is not None
        assert point.connected <= point.items
        if point.items >= enough:
            assert point.faithfulness.mean == pytest.approx(1, abs=1e-4)
    assert panel.passes <= 15


def test_a_circuit_of_edges_is_scored_as_edges() -> None:
    subject, task = planted_study()
    circuit = _edge_circuit(_planted_edges)
    table, full = full_evidence(subject, circuit, task, n=16, controls=3, seeds=1)
    assert table.setting is not None and table.setting.granularity == "edge"
    assert table.circuit.kl.mean == pytest.approx(0, abs=1e-4)
    assert table.verdict == "evidence"
    assert full.minimality is None and full.stability == []
    assert not full.equivalence.rejected


# -- the command line -----------------------------------------------------------------------------------------------


def test_score_full_writes_and_prints_all_of_it(ask: Ask, tmp_path: Path) -> None:
    files = study(tmp_path)
    subject = load(str(files.model))
    origin = {"model": str(files.model), "revision": subject.revision, "task": str(files.prompts)}
    by_hand(dict(planted_circuit(subject).kept), **origin).save(tmp_path / "run")
    options = ("--full", "--controls", "2", "--seeds", "1", "--exact", "3")
    answer = ask("score", tmp_path / "run", *options, "--json")
    assert answer.code == 0, answer.err
    full = FullEvidence.load(tmp_path / "run")
    assert json.loads(full.model_dump_json()) == answer.json["full"]
    text = ask("score", tmp_path / "run", *options, "--quiet").out
    for words in (
        "faithfulness by size",
        "CPR",
        "without the circuit",
        "equivalence: not rejected",
        "outliers",
        "Jaccard",
    ):
        assert words in text
    assert ask("score", tmp_path / "run", "--controls", "1", "--json").json["full"] is None


# -- the words of these tests ---------------------------------------------------------------------------------------


def _planted_edges(wiring: Wiring) -> Tensor:
    """Everything that comes from the embeddings, the planted heads and the MLPs: no other writer adds anything."""
    names = {"input", *(f"{layer}.head.{unit}" for layer, unit in HEADS), "0.mlp", "1.mlp"}
    return wiring.allowed & torch.tensor([name in names for name in wiring.writers])


def _edge_circuit(choose: Choose) -> Circuit:
    subject, _ = planted_study()
    wiring = Wiring.of(subject.layout)
    kept = choose(wiring)
    nodes = live_nodes(wiring, kept)
    return Circuit(scores_of(nodes), nodes, ORIGIN, Edges(wiring, kept.float(), kept))


def _edge_panel(choose: Choose) -> EdgePanel:
    subject, task = planted_study()
    panel = EdgePanel.draw(subject, _edge_circuit(choose), task, n=12)
    assert isinstance(panel, EdgePanel)
    return panel
