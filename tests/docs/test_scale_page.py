"""The page on plans and processes: its commands on a tiny model, its Python, and its table."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from commands import Ask, asking
from sharing import free_port
from subcircuit.circuit import Circuit
from subcircuit.planning.clusters import CARDS, METHODS, MODELS, markdown, rows
from tiny_folder import study

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LAUNCH = {"torchrun": ["-m", "torch.distributed.run", "--master_port"]}
FEW = ["--steps", "2", "--pairs", "8", "--validation", "4", "--batch", "4", "--kl", "9"]
FEW_SCORED = ["--pairs", "8", "--controls", "2"]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    return asking(monkeypatch, capsys)


def test_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ask: Ask
) -> None:
    files = study(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    stand_in = {"smollm2-135m": str(files.model), "ioi": str(files.prompts), "runs/ioi": "runs/both"}
    for kind, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if kind == "python":
            for word, path in stand_in.items():
                text = text.replace(f'"{word}"', f'"{path}"').replace(f'"{word}/', f'"{path}/')
            exec(text, {})
            assert capsys.readouterr().out
        for line in text.splitlines() if kind == "console" else []:
            first, *words = [stand_in.get(word, word) for word in shlex.split(line)]
            if "slurm" in words:  # a stand-in for it is in the tests of shards
                continue
            if first == "subcircuit":
                answer = ask(*words, *(FEW_SCORED if words[0] == "score" else FEW))
                assert answer.code == 0, answer.err
                continue
            command = [sys.executable, *LAUNCH[first], free_port(), *words, *FEW]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("circuit in") == 1  # one of them tells
    assert Circuit.load("runs/both").scores


def test_the_table_is_what_the_formulas_say() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert markdown() in text, "put what subcircuit.planning.clusters.markdown() gives into docs/scale.md"


def test_the_table_keeps_what_must_hold() -> None:
    found = {(row.model, row.method, row.cards): row for row in rows()}
    assert len(found) == len(MODELS) * len(METHODS) * len(CARDS)
    for model in MODELS:
        for method in METHODS:
            one, eight, many = (found[model, method, cards] for cards in CARDS)
            assert (one.plan is None) == (model == "70B")  # 140 GB of weights
            assert eight.plan is not None and many.plan is not None and eight.minutes and many.minutes
            assert eight.plan.peak <= 80e9 and many.copies == 8 * eight.copies
            assert many.minutes[1] <= eight.minutes[1] and (many.card_hours or 0) >= (eight.card_hours or 0)
