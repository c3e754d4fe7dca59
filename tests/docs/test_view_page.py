"""The page on the live view, run on a tiny model: its command, then its lines of Python and those that these print."""

import re
import shlex
import urllib.request
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason='pip install "subcircuit[view]"')

import tiny_files
from concept_folders import codebook_folder
from live import live
from serving import serving
from subcircuit.circuit import Circuit
from subcircuit.loading import load
from tiny_concepts import spoken

PAGE = (Path(__file__).parents[2] / "docs" / "view.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Circuit.load(live(tmp_path).folder).save(tmp_path / "runs" / "ioi")
    monkeypatch.chdir(tmp_path)
    (console,) = (text for kind, text in BLOCKS if kind == "console")
    (command,) = (line for line in console.splitlines() if line.startswith("subcircuit"))
    _, verb, folder, *options = shlex.split(command)
    assert verb == "view"
    with serving(Path(folder), *options) as server, urllib.request.urlopen(server.url) as reply:
        assert reply.status == 200
    told: dict[str, Any] = {}
    concepts, nodes = (text for kind, text in BLOCKS if kind == "python")
    exec(nodes, told)
    assert told["answer"].kl > 0 and told["answer"].python in capsys.readouterr().out
    exec(told["answer"].python, again := {})
    assert float(again["difference"]) == pytest.approx(told["answer"].changed.logit_difference, abs=1e-5)
    codebook_folder(tmp_path / "concepts" / "kmeans", subject=load(str(tiny_files.save(spoken(), tmp_path / "spoken"))))
    exec(concepts, read := {})
    assert read["answer"].concept.change > 0 and str(read["answer"].random.change) in capsys.readouterr().out
