"""EAP-IG and MIB files: what was written comes back, sums add up over shared keys and values."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from edge_circuits import SMALL, circuit_of, origin, random_circuit, small_file, written
from subcircuit.circuit import Circuit
from subcircuit.edge_gradients import edge_attribution
from subcircuit.edge_tables import Edges
from subcircuit.edges import writer_sites
from subcircuit.errors import DataError, UnsupportedModel, UsageError
from subcircuit.interchange import import_eap_ig, read_eap_ig, write_eap_ig
from subcircuit.intervention import Reference
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.wiring import Wiring
from tiny import random_pairs, tiny

CFG = {"n_layers": 12, "n_heads": 12, "parallel_attn_mlp": False, "d_model": 768}


def gpt2_file() -> dict[str, Any]:
    """GPT-2 small's graph in their words, written out from the definition: 158 nodes, 32,491 edges."""
    random = torch.Generator().manual_seed(0)
    stream, edges = ["input"], []
    for layer in range(12):
        heads = [f"a{layer}.h{head}" for head in range(12)]
        edges += [f"{writer}->{head}<{part}>" for writer in stream for head in heads for part in "qkv"]
        stream += heads
        edges += [f"{writer}->m{layer}" for writer in stream]
        stream.append(f"m{layer}")
    edges += [f"{writer}->logits" for writer in stream]
    scores = torch.randn(len(edges), generator=random).tolist()
    truths = (torch.rand(len(edges), generator=random) < 0.9).tolist()
    return {
        "cfg": CFG,
        "nodes": {name: {"in_graph": True} for name in [*stream, "logits"]},
        "edges": {
            name: {"score": score, "in_graph": truth} for name, score, truth in zip(edges, scores, truths, strict=True)
        },
    }


def test_a_file_of_gpt2_small_comes_back_as_it_was(tmp_path: Path) -> None:
    content, wiring = gpt2_file(), Wiring(12, 12, 12)
    assert (len(content["nodes"]), len(content["edges"])) == (158, 32_491)
    graph = read_eap_ig(written(tmp_path, content), wiring, d_model=768)
    write_eap_ig(circuit_of(graph.edges), tmp_path / "again.json", wiring, d_model=768)
    assert json.loads((tmp_path / "again.json").read_text()) == content


def test_an_edge_goes_where_its_name_says(tmp_path: Path) -> None:
    content = gpt2_file()
    edges = read_eap_ig(written(tmp_path, content), wiring := Wiring(12, 12, 12)).edges
    pairs = {"a3.h7->a5.h2<q>": "3.head.7->5.q.2", "m4->a5.h2<v>": "4.mlp->5.v.2", "input->logits": "input->logits"}
    for theirs, ours in pairs.items():
        assert edges.scores[wiring.parse(ours)] == content["edges"][theirs]["score"]


@pytest.mark.parametrize("groups", [1, 3, 9])
def test_a_circuit_comes_back_to_the_last_bit_whatever_its_heads_share(tmp_path: Path, groups: int) -> None:
    circuit = random_circuit(wiring := Wiring(3, 9, groups))
    assert circuit.edges
    write_eap_ig(circuit, tmp_path / "c.json", wiring, d_model=8)
    graph = read_eap_ig(tmp_path / "c.json", wiring, d_model=8)
    assert torch.equal(graph.edges.scores, circuit.edges.scores)
    assert torch.equal(graph.edges.kept, circuit.edges.kept)
    assert all(torch.equal(graph.kept[site], truth) for site, truth in circuit.kept.items())


def test_every_head_gets_an_equal_share_of_a_shared_key(tmp_path: Path) -> None:
    scores = torch.zeros(SMALL.allowed.shape)
    scores[SMALL.parse("input->0.k.0")] = 3.0
    write_eap_ig(circuit_of(Edges(SMALL, scores, scores > 0)), tmp_path / "c.json", SMALL, d_model=8)
    edges = json.loads((tmp_path / "c.json").read_text())["edges"]
    assert {name: edge["score"] for name, edge in edges.items() if edge["in_graph"]} == {
        "input->a0.h0<k>": 1.5,
        "input->a0.h1<k>": 1.5,
    }


def test_the_scores_of_copied_keys_and_values_add_up_to_those_of_the_shared_ones(tmp_path: Path) -> None:
    """Two models with the same logits, one with every key and value copied to the heads that share it."""
    shared = tiny("llama")
    copied = _copied(shared)
    pairs = random_pairs(shared)
    found = {}
    for subject in (shared, copied):
        wiring = Wiring.of(subject.layout)
        reference = Reference(subject, "corrupt", pairs.clean, pairs.corrupt, writer_sites(subject))
        found[subject.name] = wiring, edge_attribution(subject, wiring, pairs, reference)
    torch.testing.assert_close(shared.logits(pairs.clean), copied.logits(pairs.clean))
    wiring, scores = found["copied"]
    write_eap_ig(circuit_of(Edges(wiring, scores, wiring.allowed)), tmp_path / "c.json", wiring, d_model=32)
    wiring, expected = found[shared.name]
    read = read_eap_ig(tmp_path / "c.json", wiring, d_model=32).edges.scores
    torch.testing.assert_close(read, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


def _copied(shared: Subject) -> Subject:
    copied = tiny("llama", num_key_value_heads=4)
    state = dict(shared.model.state_dict())
    for name, weight in state.items():
        if ".k_proj." in name or ".v_proj." in name:
            state[name] = weight.view(2, 8, -1).repeat_interleave(2, 0).reshape(32, -1)
    copied.model.load_state_dict(state)
    return Subject(copied.model, name="copied")


def test_heads_that_disagree_are_refused_and_merged_only_on_demand(tmp_path: Path) -> None:
    content = small_file()
    content["edges"]["input->a0.h1<k>"]["in_graph"] = False
    path = written(tmp_path, content)
    with pytest.raises(DataError, match=r"disagree over input: it goes to a0.h0<k> and not to a0.h1<k>"):
        read_eap_ig(path, SMALL)
    assert read_eap_ig(path, SMALL, merge=True).edges.kept[SMALL.parse("input->0.k.0")]


def test_negate_turns_every_sign(tmp_path: Path) -> None:
    path = written(tmp_path, small_file())
    plain, turned = (read_eap_ig(path, SMALL, negate=negate).edges for negate in (False, True))
    assert torch.equal(plain.scores, -turned.scores) and torch.equal(plain.kept, turned.kept)
    assert plain.scores[SMALL.parse("input->0.k.0")] == 2.0 + 3.0


def test_a_file_of_memberships_ranks_its_own_edges_first(tmp_path: Path) -> None:
    content = small_file()
    for place, edge in enumerate(content["edges"].values()):
        del edge["score"]
        edge["in_graph"] = place > 5
    edges = read_eap_ig(written(tmp_path, content), SMALL).edges
    assert torch.equal(edges.scores, edges.kept.float()) and int(edges.kept.sum()) == 7


def test_a_circuit_of_nodes_comes_back_as_one(tmp_path: Path) -> None:
    subject = tiny("llama")
    sites = subject.sites(Kind.HEAD, Kind.MLP)
    scores = {site: torch.randn(subject.units(site.kind)) for site in sites}
    circuit = Circuit(scores, {site: score > 0 for site, score in scores.items()}, origin())
    write_eap_ig(circuit, tmp_path / "n.json", Wiring.of(subject.layout), d_model=32)
    again = import_eap_ig(tmp_path / "n.json", subject, "ioi")
    assert again.edges is None
    assert all(torch.equal(again.scores[site], scores[site]) for site in sites)
    assert all(torch.equal(again.kept[site], circuit.kept[site]) for site in sites)


def test_a_circuit_of_neurons_has_no_form(tmp_path: Path) -> None:
    site = Site(0, Kind.NEURON)
    circuit = Circuit({site: torch.ones(2)}, {site: torch.ones(2, dtype=torch.bool)}, origin())
    with pytest.raises(UsageError, match=r"neither edges nor a score at 0\.head"):
        write_eap_ig(circuit, tmp_path / "n.json", SMALL, d_model=8)
    with pytest.raises(UsageError, match="the model has"):
        write_eap_ig(random_circuit(Wiring(2, 2, 2), 9), tmp_path / "n.json", SMALL, d_model=8)


def test_importing_says_where_the_circuit_is_from(tmp_path: Path) -> None:
    subject = tiny("llama", num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
    content = small_file() | {"cfg": {**small_file()["cfg"], "d_model": 32}}
    path = written(tmp_path, content)
    circuit = import_eap_ig(path, subject, "ioi", reference="zero")
    assert circuit.edges and circuit.edges.kept.equal(SMALL.allowed)
    assert (circuit.origin.method, circuit.origin.reference, circuit.origin.model) == ("imported", "zero", "tiny-llama")
    assert circuit.origin.settings["file"] == "circuit.json" and len(circuit.origin.settings["sha256"]) == 64
    assert circuit.scores[Site(0, Kind.HEAD)].tolist() == [7.0 + 10.0, 8.0 + 11.0]
    circuit.save(tmp_path / "run")
    assert Circuit.load(tmp_path / "run").origin == circuit.origin
    for edge in content["edges"].values():
        edge["in_graph"] = False
    path = written(tmp_path, content)
    with pytest.raises(DataError, match="it only has scores"):
        import_eap_ig(path, subject, "ioi")
    with pytest.raises(DataError, match="none of the 1 best edges"):
        import_eap_ig(path, subject, "ioi", edges=1)  # m0->logits, which nothing leads to
    few = import_eap_ig(path, subject, "ioi", edges=5).edges
    assert few and few.names() == ["input->0.v.0", "input->logits", "0.head.0->logits", "0.head.1->logits"]


def test_an_encoder_has_no_edges(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="is an encoder"):
        import_eap_ig(written(tmp_path, small_file()), tiny("bert"), "ioi")


def test_a_file_that_leaves_edges_out_is_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = small_file()
    del content["edges"]["input->m0"]
    edges = read_eap_ig(written(tmp_path, content), SMALL).edges
    assert not edges.kept[SMALL.parse("input->0.mlp")] and int(edges.kept.sum()) == int(SMALL.allowed.sum()) - 1
    assert "lacks 1 of the graph's edges" in caplog.text
