"""The pages on extraction and distillation, run on a tiny model in their order."""

import re
import shlex
from pathlib import Path

import pytest

from commands import Ask, asking
from subcircuit import load
from tiny_circuit import planted_circuit
from tiny_folder import study

DOCS = Path(__file__).parents[2] / "docs"
TOLD = {"extraction.md": "'heads': 1", "methods/distillation.md": "taught "}  # by a page's own Python
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    return asking(monkeypatch, capsys)


def test_the_pages_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ask: Ask
) -> None:
    files = study(tmp_path)
    monkeypatch.chdir(tmp_path)
    subject = load(files.model)
    circuit, named = planted_circuit(subject), {"model": str(files.model), "revision": subject.revision}
    circuit.with_origin(circuit.origin.model_copy(update={**named, "task": str(files.prompts)})).save("runs/ioi")
    stand_in = {"smollm2-135m": str(files.model), "my_prompts.jsonl": str(files.prompts)}
    for page in TOLD:
        for kind, text in BLOCK.findall((DOCS / page).read_text(encoding="utf-8")):
            if kind == "python":
                for word, path in stand_in.items():
                    text = text.replace(f'"{word}"', f'"{path}"')
                exec(text, {})
                assert TOLD[page] in capsys.readouterr().out
            for line in text.splitlines() if kind == "console" else []:
                words = [stand_in.get(word, word) for word in shlex.split(line)[1:]]
                more = ["--pairs", 8] if words[0] == "extract" else []
                answer = ask(*words, *more)
                assert answer.code == 0, answer.err
    assert (tmp_path / "models" / "taught" / "modeling_compact.py").is_file()
    before, after = ((tmp_path / "models" / name / "README.md").read_text() for name in ("ioi", "taught"))
    added = [line for line in after.splitlines() if line not in before.splitlines()]
    assert len(added) == 1 and added[0].startswith(f"These weights were taught afterwards by {files.model}, on ")
