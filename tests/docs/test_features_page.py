"""The page on dictionaries: its Python as it stands, its commands on a tiny model."""

import re
import shlex
from pathlib import Path

import pytest

from commands import Ask, asking
from tiny_folder import study

PAGE = (Path(__file__).parents[2] / "docs" / "features.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    return asking(monkeypatch, capsys)


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "python"])
def test_python_runs(text: str) -> None:
    exec(text, {})


def test_the_commands_run_on_a_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask) -> None:
    files = study(tmp_path)
    monkeypatch.chdir(tmp_path)
    stand_in = {"smollm2-135m": str(files.model), "ioi": str(files.prompts), "6.resid": "1.resid"}
    commands = [line for kind, text in BLOCKS if kind == "console" for line in text.splitlines()]
    assert len(commands) == 3
    answers = [ask(*(stand_in.get(word, word) for word in shlex.split(command)[1:])) for command in commands]
    assert [answer.code for answer in answers] == [0, 0, 0], [answer.err for answer in answers]
    assert "healthy" in answers[1].out and "in all layers together" in answers[2].out
