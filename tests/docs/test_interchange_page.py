"""The page on formats, run on a tiny model: its commands in their order, then its lines of Python."""

import json
import re
import shlex
from pathlib import Path

import pytest

from commands import Ask, asking
from subcircuit.circuit import Circuit
from tiny_folder import study

PAGE = (Path(__file__).parents[2] / "docs" / "interchange.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    return asking(monkeypatch, capsys)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask) -> None:
    files = study(tmp_path)
    monkeypatch.chdir(tmp_path)
    stand_in = {"smollm2-135m": str(files.model), "ioi": str(files.prompts), "0.01": "0.5"}
    formats, python = (next(text for kind, text in BLOCKS if kind == wanted) for wanted in ("console", "python"))
    for line in formats.splitlines():
        words = [stand_in.get(word, word) for word in shlex.split(line)[1:]]
        answer = ask(*words)
        assert answer.code == 0, answer.err
    found, again = (Circuit.load(tmp_path / "runs" / name) for name in ("edges", "again"))
    assert found.edges and again.edges and again.edges.scores.equal(found.edges.scores)
    assert {kind: size.kept for kind, size in again.sizes.items()} == {kind: n.kept for kind, n in found.sizes.items()}
    exec(python.replace('"smollm2-135m"', repr(str(files.model))), {})


def test_the_example_file_is_one(tmp_path: Path) -> None:
    (text,) = (text for kind, text in BLOCKS if kind == "json")
    from subcircuit.interchange._document import read_document

    (tmp_path / "example.json").write_text(text)
    document = read_document(tmp_path / "example.json")
    assert document.edges["input->m0"].score == 0.5 and json.loads(text)["cfg"] == document.cfg
