"""The page on comparing, run on a tiny model: its commands in their order, then its lines of Python."""

import json
import re
import shlex
from pathlib import Path

import pytest

from commands import Ask, asking
from tiny_folder import study

PAGE = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
SHORT = {"node-pruning": "--steps 8 --warm-start 1 --polish 0 --pairs 16 --validation 8 --batch 8"}


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    return asking(monkeypatch, capsys)


def test_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ask: Ask
) -> None:
    files = study(tmp_path)
    monkeypatch.chdir(tmp_path)
    stand_in = {"smollm2-135m": str(files.model), "ioi": str(files.prompts), "64": "16"}
    for line in BLOCKS["console"].splitlines():
        words = [stand_in.get(word, word) for word in shlex.split(line)[1:]]
        if words[0] == "find":
            words += SHORT.get(words[1], "--pairs 16 --validation 8").split()
        answer = ask(*words)
        assert answer.code == 0 or (words[0] == "find" and answer.code == 7), answer.err
    assert json.loads(answer.out)["differences"] == []
    exec(BLOCKS["python"], {})
    assert capsys.readouterr().out.startswith("[]\n")
