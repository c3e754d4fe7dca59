"""`subcircuit view` as a command: what it refuses before a model is loaded, and a real server from start to end."""

import http.client
import json
import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("fastapi", reason='pip install "subcircuit[view]"')

from commands import Ask, asking
from live import Live
from live_concepts import LiveConcepts
from live_graphs import LiveGraph
from reported import ranked_run
from serving import serving
from subcircuit.prompts import Prompts
from subcircuit.view import Change
from subcircuit.view.graph_questions import GraphQuestion
from subcircuit.view.graphs import GraphSession


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    return asking(monkeypatch, capsys)


def test_a_missing_extra_names_its_command(study: Live, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subcircuit.cli._view.NEEDED", ("no_such_module",))
    answer = ask("view", study.folder)
    assert answer.code == 2 and 'pip install "subcircuit[view]"' in answer.err


@pytest.mark.parametrize("missing", ["circuit.json", "scores.safetensors"])
def test_a_half_written_folder_is_refused(tmp_path: Path, ask: Ask, missing: str) -> None:
    (ranked_run(tmp_path) / missing).unlink()
    answer = ask("view", tmp_path, "--json")
    assert answer.code == 3 and missing in answer.json["error"]["message"]


def test_a_search_that_is_not_finished_is_told_how_to_go_on(tmp_path: Path, ask: Ask) -> None:
    (ranked_run(tmp_path) / "circuit.json").unlink()
    about = {"method": "random", "settings": {}, "model": "m", "revision": "", "dtype": "float32", "device": "cpu"}
    run = about | {"task": "ioi", "versions": {}, "started": "2026-01-01T00:00:00+00:00", "status": "interrupted"}
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    answer = ask("view", tmp_path)
    assert answer.code == 3 and "its search is interrupted" in answer.err and "--resume" in answer.err


def test_a_port_in_use_is_refused_before_a_model_is_loaded(study: Live, ask: Ask) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        answer = ask("view", study.folder, "--port", taken.getsockname()[1], "--no-open")
    assert answer.code == 4 and "cannot be used: Address already in use" in answer.err


def test_a_graph_whose_transcoders_are_gone_says_so_before_a_model_is_loaded(
    graph: LiveGraph, ask: Ask, tmp_path: Path
) -> None:
    folder = graph.folder.parent / "transcoders"
    folder.rename(graph.folder.parent / "elsewhere")
    try:
        answer = ask("view", graph.folder, "--no-open")
    finally:
        (graph.folder.parent / "elsewhere").rename(folder)
    assert answer.code == 3 and f"the transcoders of the graph are not in {folder}" in answer.err
    assert "--transcoders DIR" in answer.err


def test_a_model_that_has_changed_is_refused(graph: LiveGraph, ask: Ask, tmp_path: Path) -> None:
    shutil.copytree(graph.folder, tmp_path / "graph")
    path = tmp_path / "graph" / "graph.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"revision": "sha256:0"}))
    answer = ask("view", tmp_path / "graph", "--no-open")
    assert answer.code == 3 and "has other weights than those the graph was made of" in answer.err
    assert "--force" in answer.err


def test_a_codebook_of_another_model_is_refused(concepts: LiveConcepts, ask: Ask, tmp_path: Path) -> None:
    shutil.copytree(concepts.folder, tmp_path / "book", ignore=shutil.ignore_patterns("states"))
    path = tmp_path / "book" / "codebook.json"
    record = json.loads(path.read_text())
    record["about"]["revision"] = "sha256:0"
    path.write_text(json.dumps(record))
    answer = ask("view", tmp_path / "book", "--no-open")
    assert answer.code == 3 and "the codebook is of" in answer.err


def test_options_of_another_kind_of_folder_are_refused(study: Live, concepts: LiveConcepts, ask: Ask) -> None:
    answer = ask("view", study.folder, "--texts", "some.txt")
    assert answer.code == 2 and f"--texts is of a graph, and {study.folder} holds a run" in answer.err
    answer = ask("view", concepts.folder, "--transcoders", "some")
    assert answer.code == 2 and "--transcoders is of a graph" in answer.err
    answer = ask("view", concepts.folder, "--force")
    assert answer.code == 2 and "--force is not of codebooks" in answer.err


def test_a_graph_is_served_with_the_mean_of_texts(graph: LiveGraph, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a b c d\nq r s t u\n")
    texts = prompts_of_lines(graph, ["a b c d", "q r s t u"])
    session = GraphSession(graph.subject, graph.transcoders, graph.file, graph.graph, texts=texts)
    question = GraphQuestion(features=graph.names[:3], fill="mean")
    with serving(graph.folder, "--texts", str(tmp_path / "texts.txt")) as server:
        path = "/" + server.url.split("/", 3)[3]
        status, said = call(server.port, "POST", f"{path}api/ask", {"question": question.model_dump()})
        assert status == 200
        assert json.loads(said)["kl"] == pytest.approx(session.answer(question).kl, abs=1e-5)
        assert server.stop() == 0


def prompts_of_lines(graph: LiveGraph, lines: list[str]) -> Prompts:
    rows = [graph.subject.tokenizer(line).input_ids for line in lines]
    mask = torch.tensor([[at < len(row) for at in range(max(map(len, rows)))] for row in rows])
    ids = torch.tensor([row + [0] * (mask.shape[1] - len(row)) for row in rows])
    return Prompts(ids, mask, mask.sum(1) - 1)


def call(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    data = None if body is None else json.dumps(body)
    link.request(method, path, data, {"content-type": "application/json", **headers})
    reply = link.getresponse()
    return reply.status, reply.read()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_stop(study: Live, how: int) -> None:
    question = study.question(changes=[Change(nodes=["1.head.2"])])
    with serving(study.folder) as server:
        path = "/" + server.url.split("/", 3)[3]
        status, html = call(server.port, "GET", path)
        assert status == 200 and b'id="live"' in html
        asked = {"question": question.model_dump()}
        hang_up(server.port, path, asked)
        status, said = call(server.port, "POST", f"{path}api/ask", asked, origin=f"http://127.0.0.1:{server.port}")
        assert status == 200
        assert json.loads(said)["kl"] == pytest.approx(study.session.answer(question).kl, abs=1e-5)
        assert call(server.port, "GET", path, Host="evil.example")[0] == 403
        assert call(server.port, "GET", f"{path}../../../../etc/passwd")[0] in (403, 404)
        assert call(server.port, "GET", f"{path}..%2f..%2fetc%2fpasswd")[0] == 404
        assert server.stop(how) == 0


def hang_up(port: int, path: str, body: Any) -> None:
    """Ask, and be gone before the answer; and ask half a question."""
    data = json.dumps(body).encode()
    head = f"POST {path}api/ask HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    whole = head.encode() + f"Content-Length: {len(data)}\r\n\r\n".encode() + data
    for sent in (whole, whole[:-20]):
        with socket.create_connection(("127.0.0.1", port)) as link:
            link.sendall(sent)
