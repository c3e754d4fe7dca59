"""What the page of an attribution graph is told, texts that turn features on, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from commands import Ask
from graph_folders import graph_folder, random_graph
from hand_graphs import drawn
from reported import ranked_run
from subcircuit.errors import DataError, UsageError
from subcircuit.features.documents import Documents
from subcircuit.features.transcoders import write_transcoders
from subcircuit.graphs.attribution import Attribution
from subcircuit.graphs.examples import EXAMPLES, Examples, find_examples
from subcircuit.graphs.files import save_graph
from subcircuit.loading import load
from subcircuit.report.graphs import GraphPage, graph_payload
from subcircuit.sites import Kind
from tiny import planted
from tiny_folder import Study
from tiny_transcoders import neuron_transcoders, one_prompt, random_transcoders


def told(folder: Path) -> tuple[GraphPage, np.ndarray]:
    payload, arrays = graph_payload(str(folder))
    size = len(payload.graph.nodes)
    return payload.graph, np.frombuffer(arrays.bytes(), "<f4", size * size).reshape(size, size)


def test_a_hand_drawn_graph_comes_through_with_its_numbers(tmp_path: Path) -> None:
    """t -> f0 (2), f0 -> f1 (3), e0 -> f1 (-1), f1 -> logit (4); f2 leads nowhere."""
    effects = {("t", "f0"): 2.0, ("f0", "f1"): 3.0, ("e0", "f1"): -1.0, ("f1", "l0"): 4.0, ("t", "f2"): 5.0}
    save_graph(drawn(3, effects), tmp_path)
    page, table = told(tmp_path)
    names = [node.name for node in page.nodes]
    assert names == ["0.10@0", "1.11@0", "0.error@0", "token 'x'@0", "logit 'y0'"]
    assert [node.kind for node in page.nodes] == ["feature", "feature", "error", "token", "target"]
    assert [node.influence for node in page.nodes] == [0.75, 1, 0.25, 0.75, 0]
    assert [node.inputs for node in page.nodes] == [2, 4, 0, 0, 4]
    assert [node.share for node in page.nodes][:3] == pytest.approx([1.75 / 2.75, 1 / 2.75, 1])
    assert {(names[s], names[t]): float(table[t, s]) for t, s in np.argwhere(table)} == {
        ("token 'x'@0", "0.10@0"): 2,
        ("0.10@0", "1.11@0"): 3,
        ("0.error@0", "1.11@0"): -1,
        ("1.11@0", "logit 'y0'"): 4,
    }
    assert page.left_out == 0 and page.levels == [[0, 1]] and page.examples == {} and page.warnings == []
    assert page.file.replacement == 0.75


def test_only_the_most_influential_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = random_graph()
    whole, _ = told(graph_folder(tmp_path, graph))
    inner = [node for node in whole.nodes if node.kind in ("feature", "error")]
    assert all(node.influence > 0 for node in inner) and whole.left_out == 0
    monkeypatch.setattr("subcircuit.report.graphs.MOST", 40)
    few, table = told(tmp_path)
    best = sorted(inner, key=lambda node: -node.influence)[:40]
    kept = [node for node in few.nodes if node.kind in ("feature", "error")]
    assert {node.name for node in kept} == {node.name for node in best}
    assert few.left_out == len(inner) - 40
    assert {node.name: node.inputs for node in kept} == {node.name: node.inputs for node in best}  # of all nodes still
    features = [node for node in few.nodes if node.kind == "feature"]
    assert all(len(level) == len(features) for level in few.levels)
    all_names = [graph.name(node) for node in range(len(graph))]
    own = torch.tensor([all_names.index(node.name) for node in few.nodes])
    assert np.array_equal(table, graph.adjacency[own][:, own].numpy())


def test_a_low_replacement_score_is_said(tmp_path: Path) -> None:
    save_graph(drawn(1, {("t", "f0"): 1.0, ("e0", "f0"): 9.0, ("f0", "l0"): 1.0}), tmp_path)
    assert "Replacement score 0.10" in told(tmp_path)[0].warnings[0]


def texts_of_tokens() -> Documents:
    ids = torch.randint(3, 60, (3, 6), generator=torch.Generator().manual_seed(4)).int()
    ids[1, 4:] = -1
    return Documents(ids)


def test_examples_are_where_the_neurons_are_strongest() -> None:
    subject = planted("tracr", neurons=[(0, 3), (1, 5)], intermediate_size=40)
    transcoders, documents = neuron_transcoders(subject), texts_of_tokens()
    prompts = documents.prompts()
    _, acts = subject.record(prompts, subject.sites(Kind.NEURON))
    values = torch.stack([acts[site][..., 0] for site in subject.sites(Kind.NEURON)])  # layer prompt pos neuron
    values = values.masked_fill(~prompts.mask[None, ..., None], 0)
    graph = Attribution(skip=0).graph(subject, transcoders, one_prompt())
    found = find_examples(subject, transcoders, graph, documents, most=2, skip=1)
    assert found.windows == 3
    for layer, number in {(layer, number) for layer, _, number in graph.features.tolist()}:
        mine = values[layer, :, 1:, number]
        best = sorted((float(value) for value in mine.amax(1) if value > 0), reverse=True)[:2]
        listed = found.features.get(f"{layer}.{number}", [])
        assert [each.activation for each in listed] == pytest.approx(best, rel=1e-4)
        if listed:
            row, position = divmod(int(mine.flatten().argmax()), mine.shape[1])
            pieces = [f"t{token}" for token in documents.ids[row].tolist() if token >= 0]
            assert listed[0].token == pieces[position + 1]
            assert listed[0].before + listed[0].token + listed[0].after == "".join(pieces)


def test_the_verbs_make_a_page_with_texts(files: Study, ask: Ask, tmp_path: Path) -> None:
    write_transcoders(random_transcoders(load(files.model)), place := tmp_path / "transcoders")
    (texts := tmp_path / "texts.txt").write_text("a b c d\ne f g a b\n")
    words = ["graph", "--model", files.model, "--prompt", "a b c d e", "--transcoders", place, "--out", tmp_path / "g"]
    assert ask(*words, "--examples", tmp_path / "none.txt").code == 2
    answer = ask(*words, "--examples", texts)
    assert answer.code == 0, answer.err
    found = Examples.load(tmp_path / "g")
    assert found is not None and found.windows == 2 and found.features
    answer = ask("report", tmp_path / "g", "--json")
    assert answer.code == 0 and Path(answer.json["file"]) == tmp_path / "g" / "report.html"
    page, _ = told(tmp_path / "g")
    assert page.examples and set(page.examples) <= set(found.features)
    assert page.commands[0].startswith("subcircuit graph --model") and "'a b c d e'" in page.commands[0]
    assert ask(*words, "--overwrite").code == 0 and not (tmp_path / "g" / EXAMPLES).exists()


def test_what_cannot_be_shown_is_refused(ask: Ask, tmp_path: Path) -> None:
    folder = graph_folder(tmp_path / "graph")
    with pytest.raises(UsageError, match="one attribution graph"):
        graph_payload(str(folder), str(folder))
    assert ask("report", folder, ranked_run(tmp_path / "run")).code == 2
    (folder / EXAMPLES).write_text(json.dumps({"windows": 1}))
    with pytest.raises(DataError, match="not a file of examples"):
        graph_payload(str(folder))
    (folder / "graph.safetensors").unlink()
    assert ask("report", folder).code == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("find", "graph"), "graph is no method of `find`: it takes transcoders\nsubcircuit graph --help"),
        (("plan", "find", "hierarchy"), "hierarchy is no method of `plan find`: it takes transcoders\nsubcircuit find"),
    ],
)
def test_what_takes_transcoders_is_named(ask: Ask, words: tuple[str, ...], told: str) -> None:
    answer = ask(*words, "--model", "gpt2", "--task", "ioi", "--out", "runs/x")
    assert answer.code == 2 and told in answer.err
