"""Graphs in folders, on the command line, and as Neuronpedia reads them."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from commands import Ask, asking
from hand_graphs import drawn
from subcircuit.errors import DataError, UsageError
from subcircuit.features.transcoders import write_transcoders
from subcircuit.graphs.attribution import Attribution
from subcircuit.graphs.files import load_graph, save_graph
from subcircuit.graphs.graph import Graph
from subcircuit.graphs.influence import influence, normalised, prune
from subcircuit.graphs.neuronpedia import document, node_id
from subcircuit.subject import Subject
from tiny import planted
from tiny_files import save
from tiny_transcoders import one_prompt, random_transcoders

TEXT, WHOLE, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
TEXTS = {"type": "array", "items": TEXT}
NODE = {
    **dict.fromkeys(("node_id", "feature_type", "jsNodeId", "clerp"), TEXT),
    **{"feature": {"type": ["integer", "null"]}, "layer": {"type": ["string", "integer"]}, "ctx_idx": WHOLE},
}
# what Neuronpedia asks of a file, version 1.0.0 of its schema
SCHEMA = {
    "type": "object",
    "required": ["metadata", "qParams", "nodes", "links"],
    "properties": {
        "metadata": {
            "type": "object",
            "required": ["slug", "scan", "prompt_tokens", "prompt"],
            "properties": {
                **{"slug": TEXT, "scan": TEXT, "prompt_tokens": TEXTS, "prompt": TEXT, "node_threshold": NUMBER},
                "info": {"type": "object"},
                "generation_settings": {
                    "type": "object",
                    "properties": dict.fromkeys(("max_n_logits", "batch_size", "max_feature_nodes"), WHOLE),
                },
                "pruning_settings": {
                    "type": "object",
                    "properties": dict.fromkeys(("node_threshold", "edge_threshold"), NUMBER),
                },
            },
        },
        "qParams": {
            "type": "object",
            "properties": {"pinnedIds": TEXTS, "supernodes": {"type": "array", "items": TEXTS}, "linkType": TEXT},
        },
        "nodes": {
            "type": "array",
            "items": {
                "type": "object",
                "required": list(NODE),
                "properties": NODE | {key: {"type": ["number", "null"]} for key in ("influence", "activation")},
            },
        },
        "links": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["source", "target", "weight"],
                "properties": {"source": TEXT, "target": TEXT, "weight": NUMBER},
            },
        },
    },
}


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    return asking(monkeypatch, capsys)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return planted("llama")


@pytest.fixture(scope="module")
def graph(subject: Subject) -> Graph:
    return Attribution(max_logits=3).graph(subject, random_transcoders(subject), one_prompt())


# -- folders --------------------------------------------------------------------------------------------------------


def test_a_saved_graph_comes_back(graph: Graph, tmp_path: Path) -> None:
    save_graph(graph, tmp_path / "g")
    found = load_graph(tmp_path / "g")
    for name in ("adjacency", "features", "activations", "constants", "rest"):
        assert getattr(found, name).equal(getattr(graph, name)), name
    torch.testing.assert_close(found.weights, graph.weights)
    assert (found.labels, found.words, found.targets) == (graph.labels, graph.words, graph.targets)
    (tmp_path / "g" / "graph.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match=r"graph\.safetensors cannot be read"):
        load_graph(tmp_path / "g")
    with pytest.raises(DataError, match=r"graph\.json is missing"):
        load_graph(tmp_path)


# -- the format -----------------------------------------------------------------------------------------------------


def exported(graph: Graph, **shares: float) -> dict[str, Any]:
    made = document(graph, prune(graph, **shares), slug="a-graph", scan="tiny-1")
    found: dict[str, Any] = json.loads(made.model_dump_json())
    return found


def test_the_file_keeps_to_the_schema(graph: Graph) -> None:
    found = exported(graph)
    jsonschema.Draft7Validator(SCHEMA).validate(found)
    for broken in ("slug", "scan"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**found, "metadata": {**found["metadata"], broken: None}}, SCHEMA)


def test_ids_are_unique_and_links_join_nodes(graph: Graph) -> None:
    every = [node_id(graph, node) for node in range(len(graph))]
    assert len(set(every)) == len(every)
    found = exported(graph)
    ids = {node["node_id"] for node in found["nodes"]}
    assert len(ids) == len(found["nodes"]) and len({node["jsNodeId"] for node in found["nodes"]}) <= len(ids)
    assert {link[end] for link in found["links"] for end in ("source", "target")} <= ids


def test_every_kind_of_node_is_spelled_as_the_page_reads_it(graph: Graph) -> None:
    found = exported(graph, nodes=1.0, edges=1.0)["nodes"]
    by_type = {
        kind: [node for node in found if node["feature_type"] == kind] for kind in {n["feature_type"] for n in found}
    }
    assert set(by_type) == {"cross layer transcoder", "mlp reconstruction error", "embedding", "logit"}
    for node in by_type["cross layer transcoder"]:
        layer, number, position = map(int, node["node_id"].split("_"))
        total = (8 * node["feature"] + 1) ** 0.5 // 2 - 0.5  # Cantor's pairs, undone
        both = int(total + 1e-9)
        second = node["feature"] - both * (both + 1) // 2
        assert (both - second, second) == (layer, number) and node["jsNodeId"] == f"{layer}_{number}-0"
        assert (node["layer"], node["ctx_idx"]) == (str(layer), position) and node["activation"] != 0
    assert all(node["feature"] == -1 for node in by_type["mlp reconstruction error"])
    assert [node["node_id"] for node in by_type["embedding"]] == [f"E_{t}_{p}" for p, t in enumerate(graph.tokens)]
    assert [node["is_target_logit"] for node in by_type["logit"]] == [True, False, False]
    assert all("(p=" in node["clerp"] and node["layer"] == "3" for node in by_type["logit"])


def test_influence_is_that_of_the_links(graph: Graph) -> None:
    """Read the whole graph back from its JSON and compute every node's cumulative influence anew."""
    found = exported(graph, nodes=1.0, edges=1.0)
    ids = [node["node_id"] for node in found["nodes"]]
    table = torch.zeros(len(ids), len(ids))
    for link in found["links"]:
        table[ids.index(link["target"]), ids.index(link["source"])] = link["weight"]
    start = torch.tensor([node["token_prob"] for node in found["nodes"]])
    again = influence(normalised(table), start)
    order = again.argsort(descending=True)
    cumulative = torch.zeros(len(ids)).scatter(0, order, again[order].cumsum(0) / again.sum())
    for node, value in zip(found["nodes"], cumulative.tolist(), strict=True):
        if node["feature_type"] != "logit":
            assert node["influence"] == pytest.approx(value, abs=1e-4)


def test_names_and_graphs_that_neuronpedia_would_refuse(graph: Graph) -> None:
    with pytest.raises(UsageError, match="refuse the slug 'a graph'"):
        document(graph, prune(graph), slug="a graph", scan="x")
    with pytest.raises(UsageError, match="refuse the scan ''"):
        document(graph, prune(graph), slug="x", scan="")
    flat = drawn(1, {("t", "f0"): 1.0, ("f0", "l0"): 1.0})
    with pytest.raises(DataError, match="no node above layer 0"):
        document(flat, prune(flat), slug="x", scan="x")


# -- the command line -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("graphs")
    write_transcoders(random_transcoders(subject), folder / "transcoders")
    return {"model": save(subject, folder / "model"), "transcoders": folder / "transcoders"}


def arguments(study: dict[str, Path], out: Path, prompt: str) -> list[object]:
    return ["graph", "--model", study["model"], "--transcoders", study["transcoders"], "--prompt", prompt, "--out", out]


def prompt_of(study: dict[str, Path]) -> str:
    from subcircuit.loading import load_tokenizer

    return " ".join(load_tokenizer(study["model"]).convert_ids_to_tokens([9, 20, 31, 42, 12]))


def test_graph_and_export(study: dict[str, Path], ask: Ask, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "my graph"
    answer = ask(*arguments(study, out, prompt_of(study)), "--max-features", "40", "--json")
    assert answer.code == 0, answer.err
    told = answer.json
    assert told["graph"]["features"] == 40 and 0 < told["graph"]["completeness"] <= 1
    values = [each["influence"] for each in told["influential"]]
    assert values == sorted(values, reverse=True) and len(values) == 10
    again = ask(*arguments(study, out, prompt_of(study)))
    assert again.code == 2 and "not empty" in again.err
    shown = ask(*arguments(study, out, prompt_of(study)), "--overwrite")
    assert shown.code == 0 and "replacement score" in shown.out
    file = tmp_path / "graph.json"
    written = ask("export", out, "--format", "neuronpedia", "--out", file, "--supernodes", "6", "--json")
    assert written.code == 0, written.err
    found = json.loads(file.read_text())
    jsonschema.Draft7Validator(SCHEMA).validate(found)
    assert found["metadata"]["slug"] == "my-graph" and found["metadata"]["scan"] == "model"
    assert written.json["sizes"]["nodes"]["kept"] == len(found["nodes"])
    groups = found["qParams"]["supernodes"]
    ids = {node["node_id"] for node in found["nodes"]}
    assert 0 < len(groups) <= 6 and all(len(group) > 2 and set(group[1:]) <= ids for group in groups)


def test_a_logit_difference_and_what_is_refused(study: dict[str, Path], ask: Ask, tmp_path: Path) -> None:
    from subcircuit.loading import load_tokenizer

    words = load_tokenizer(study["model"]).convert_ids_to_tokens([10, 11])
    base = arguments(study, tmp_path / "g", prompt_of(study))
    answer = ask(*base, "--right", words[0], "--wrong", words[1], "--json")
    assert answer.code == 0, answer.err
    (target,) = answer.json["graph"]["targets"]
    assert target["weight"] == 1 and target["label"].count(" - ") == 1
    assert ask(*base, "--right", words[0]).code == 2
    assert (
        "2 tokens"
        in ask(*arguments(study, tmp_path / "h", prompt_of(study)), "--right", " ".join(words), "--wrong", words[0]).err
    )
    assert ask("export", study["model"], "--format", "neuronpedia", "--out", tmp_path / "x.json").code == 3


def test_long_work_is_refused_where_nobody_can_be_asked(
    study: dict[str, Path], ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from subcircuit.cli import _graph

    monkeypatch.setattr(_graph, "LONG", -1)
    base = arguments(study, tmp_path / "g", prompt_of(study))
    refused = ask(*base)
    assert refused.code == 4 and "--yes" in refused.err and not (tmp_path / "g").exists()
    assert ask(*base, "--yes").code == 0
