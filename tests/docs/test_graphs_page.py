"""The page on attribution graphs, run on a tiny model: its commands in their order, then its lines of Python."""

import re
import shlex
from pathlib import Path

import pytest

from commands import Ask, asking
from subcircuit.features.transcoders import write_transcoders
from subcircuit.loading import load
from tiny_folder import study
from tiny_transcoders import random_transcoders

PAGE = (Path(__file__).parents[2] / "docs" / "methods" / "hierarchical-attribution-graphs.md").read_text(
    encoding="utf-8"
)
BLOCKS = dict(re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    return asking(monkeypatch, capsys)


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask) -> None:
    files = study(tmp_path)
    write_transcoders(random_transcoders(load(files.model)), tmp_path / "gpt2-transcoders")
    monkeypatch.chdir(tmp_path)
    stand_in = {"openai-community/gpt2": str(files.model), "ioi": str(files.prompts)}
    stand_in["The capital of France is"] = "a b c d e"
    few = {"hierarchy": ["--pairs", "20", "--validation", "8", "--test", "8", "--goal", "0.5"]}
    for line in BLOCKS["console"].splitlines():
        verb, *rest = [stand_in.get(word, word) for word in shlex.split(line)[1:]]
        answer = ask(verb, *rest, *few.get(rest[0], []))
        assert answer.code == 0, answer.err
    assert (tmp_path / "paris.json").is_file() and (tmp_path / "runs" / "features" / "features.json").is_file()


def test_the_lines_of_python_run() -> None:
    exec(BLOCKS["python"], {})
