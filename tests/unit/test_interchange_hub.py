"""Circuits through the hub: a stand-in on this machine takes commits and gives files back, over HTTP."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_circuits import random_circuit
from stand_in_hub import Hub, commit
from subcircuit.evaluation import Evidence
from subcircuit.scores import Estimate, Scores
from subcircuit.wiring import Wiring

# The hub's address is read once, at import: hence a process of its own, which runs the real command line.
CHILD = """
import json, sys
from subcircuit.cli import main
for line in sys.stdin:
    sys.argv = ["subcircuit", *json.loads(line), "--json"]
    try:
        main()
    except SystemExit as stop:
        print(json.dumps({"exit": stop.code}), flush=True)
"""


class Asker:
    """The command line in the process that knows the stand-in hub."""

    def __init__(self, child: "subprocess.Popen[str]", server: ThreadingHTTPServer) -> None:
        self.child, self.server = child, server

    def __call__(self, *words: object) -> Any:
        """What `--json` printed, with the exit code in `exit`."""
        assert self.child.stdin and self.child.stdout
        self.child.stdin.write(json.dumps([str(word) for word in words]) + "\n")
        self.child.stdin.flush()
        printed = ""
        while not (line := self.child.stdout.readline()).startswith('{"exit"'):
            assert line, "the process has died"
            printed += line
        return {**json.loads(printed), **json.loads(line)}

    def unplug(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Asker]:
    Hub.commits, Hub.visibility = [], {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_TOKEN": "hf_madeup",
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-c", CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as child:
        yield Asker(child, server)
        assert child.stdin
        child.stdin.close()
    server.shutdown()


def scores(kl: float, logit_difference: float) -> Scores:
    def near(value: float) -> Estimate:
        return Estimate(mean=value, low=value - 0.125, high=value + 0.125)

    return Scores(
        kl=near(kl),
        faithfulness=near(logit_difference / 4),
        logit_difference=near(logit_difference),
        accuracy=near(0.5),
        exact_match=near(0.5),
    )


def evidence() -> Evidence:
    return Evidence(
        split="test",
        pairs=64,
        reference="corrupt",
        seed=0,
        sizes={},
        full=scores(0, 4),
        circuit=scores(0.25, 3),
        empty=scores(2, 0),
        attribution=scores(0.5, 2),
        integrated=scores(0.375, 2),
        random=[scores(1.75, 0.5), scores(1.5, 0.25)],
        prompts={"kl": [0.25], "logit_difference": [3.0]},
    )


def test_a_circuit_goes_to_the_hub_and_comes_back(ask: Asker, tmp_path: Path) -> None:
    """One process and one story, as starting it is what takes time."""
    run = tmp_path / "run"
    circuit = random_circuit(Wiring(2, 4, 2), 12)
    circuit.save(run)

    first = ask("push", run, "made/circuit", "--private")
    assert (first["exit"], first["scored"], first["commit"]) == (0, False, commit(1))
    assert "made/circuit" in Hub.visibility and Hub.visibility["made/circuit"]["visibility"] == "private"
    assert "has not been scored" in Hub.commits[0][1]["README.md"].decode()

    evidence().save(run)
    assert ask("push", run, "made/circuit")["commit"] == commit(2)
    files = Hub.commits[1][1]
    assert set(files) == {"README.md", "circuit.json", "scores.safetensors", "evidence.json"}
    _check_card(files["README.md"].decode())

    pulled = ask("pull", "made/circuit", tmp_path / "pulled")
    assert pulled["exit"] == 0 and pulled["origin"]["shared"] == f"made/circuit@{commit(2)}"
    again = type(circuit).load(tmp_path / "pulled")
    assert again.edges and circuit.edges and again.edges.scores.equal(circuit.edges.scores)
    assert again.edges.kept.equal(circuit.edges.kept)
    assert again.with_origin(circuit.origin).sizes == circuit.sizes
    assert Evidence.load(tmp_path / "pulled") == evidence()

    older = ask("pull", "made/circuit", tmp_path / "older", "--revision", commit(1))
    assert older["origin"]["shared"].endswith(commit(1)) and not (tmp_path / "older" / "evidence.json").exists()
    assert ask("pull", "made/circuit", tmp_path / "pulled")["error"]["message"].endswith("is not empty")
    assert ask("pull", "made/circuit", tmp_path / "pulled", "--overwrite")["exit"] == 0

    for words, told in {
        ("pull", "made/nothing", tmp_path / "x"): "the hub has no such repository",
        ("pull", "no name, this", tmp_path / "x"): "no name of a repository",
        ("pull", "made/circuit", tmp_path / "x", "--revision", "v9"): "has no revision 'v9'",
    }.items():
        refused = ask(*words)
        assert refused["exit"] == 2 and told in refused["error"]["message"]
    refused = ask("push", run, "theirs/circuit")
    assert refused["exit"] == 4 and "refuses 'theirs/circuit'" in refused["error"]["message"]
    assert "hf auth login" in refused["error"]["cure"]
    Hub.commits.append(("made/model", {"config.json": b"{}"}))
    assert "it holds no circuit" in ask("pull", "made/model", tmp_path / "x")["error"]["message"]

    ask.unplug()
    cached = ask("pull", "made/circuit", tmp_path / "cached")
    assert cached["exit"] == 0 and cached["origin"]["shared"].startswith("made/circuit@")
    lost = ask("pull", "made/other", tmp_path / "x")
    assert lost["exit"] == 4 and "out of reach" in lost["error"]["message"]
    assert ask("push", run, "made/circuit")["exit"] == 4


def _check_card(text: str) -> None:
    """The card by its own words: header, evidence with intervals, origin, how to use it."""
    _, header, body = text.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "subcircuit",
        "tags": ["circuit", "mechanistic-interpretability", "subcircuit"],
        "base_model": "openai-community/gpt2",
    }
    rows = {line.split(" | ")[0].strip("| "): line for line in body.splitlines() if line.startswith("| ")}
    assert "0.25 [0.125, 0.375] | 0.75 [0.625, 0.875] | 3 [2.88, 3.12]" in rows["**circuit**"]
    assert "1.5 [1.38, 1.62]" in rows["random, best of 2"] and "2 [1.88, 2.12]" in rows["empty circuit"]
    assert rows["model"] == "| model | openai-community/gpt2 |" and rows["its weights"].endswith("0" * 40 + " |")
    assert rows["edge"].startswith("| edge | ") and rows["train pairs"] == "| train pairs | 32 |"
    assert "Verdict: **evidence**. 64 prompt pairs" in body
    assert 'Circuit.from_pretrained("made/circuit")' in body and "subcircuit pull made/circuit" in body
    columns = [line.count("|") for line in body.splitlines() if line.startswith(("| |", "|---", "| full"))]
    assert len(set(columns[:3])) == 1  # or it is no table


def test_a_folder_is_read_without_a_hub(tmp_path: Path) -> None:
    circuit = random_circuit(Wiring(2, 4, 2), 12)
    circuit.save(tmp_path)
    again = type(circuit).from_pretrained(tmp_path)
    assert again.edges and circuit.edges and again.edges.kept.equal(circuit.edges.kept)
    assert again.origin == circuit.origin
