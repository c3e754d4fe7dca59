"""The pages on concepts, run on a tiny model in their order: commands first, then the lines of Python."""

import re
import shlex
from pathlib import Path

import pytest

import tiny_files
from commands import Ask, asking
from subcircuit.concepts.codebook import Codebook
from subcircuit.concepts.labels import concept_ids
from tiny_circuit import by_hand, kept_nodes
from tiny_concepts import corpus, spoken, write_corpus

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
STAND_IN = {
    "smollm2-135m": "model",
    "15": "1",
    "22": "2",
    "50": "8",
    "neg= negative": "left=2",
    "pos= positive": "right=3",
    "a dull and lifeless mess": "a b c",
    "a warm , witty film": "x y",
}


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    return asking(monkeypatch, capsys)


def test_the_pages_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ask: Ask
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_files.save(spoken(), tmp_path / "model")
    write_corpus(tmp_path / "reviews.csv", corpus(60))
    stand_in = dict(STAND_IN)
    for page in ("concepts.md", "methods/vqlc.md", "methods/clvq-vae.md"):
        for kind, text in BLOCK.findall((DOCS / page).read_text(encoding="utf-8")):
            if kind == "python":
                for said, stands in {"smollm2-135m": "model", "[15]": "[1]", "15": "1", "50": "8", "dull": "b"}.items():
                    text = text.replace(said, stands)
                exec(text.replace("a b mess", "a b"), {})
                assert capsys.readouterr().out.startswith("{'")
            if "runs/ioi" in text:
                book = Codebook.load(tmp_path / "concepts" / "kmeans")
                by_hand(kept_nodes(spoken(), [(0, 1)], [(0, 7)]), revision=book.about.revision).save("runs/ioi")
                stand_in["9dda13b97cfd"] = concept_ids(book)[0]
            for line in text.splitlines() if kind == "console" else []:
                answer = ask(*(stand_in.get(word, word) for word in shlex.split(line)[1:]))
                assert answer.code == 0, answer.err
    assert (tmp_path / "concepts" / "judging" / "sheet.csv").is_file()
    assert (tmp_path / "concepts.html").is_file() and (tmp_path / "concepts" / "kmeans" / "labels.json").is_file()
