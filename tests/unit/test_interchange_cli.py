"""`export`, `import` and `check-mib` as commands; push and pull are in test_interchange_hub."""

import json
from pathlib import Path

import pytest
import torch

from commands import Ask
from edge_circuits import circuit_of, origin
from subcircuit.circuit import Circuit
from subcircuit.edge_tables import Edges
from subcircuit.ground_truth.tiny import tiny
from subcircuit.wiring import Wiring
from tiny_files import save
from tiny_folder import Study


@pytest.fixture
def run(tmp_path: Path, files: Study) -> Path:
    """A run folder with all edges but those into the logits' last writer."""
    wiring = Wiring(2, 4, 2)
    scores = torch.randn(wiring.allowed.shape, generator=torch.Generator().manual_seed(0)) * wiring.allowed
    kept = wiring.allowed.clone()
    kept[-1, -1] = False
    folder = tmp_path / "run"
    named = origin(model=str(files.model), revision="sha256:0", task=str(files.prompts))
    circuit_of(Edges(wiring, scores, kept)).with_origin(named).save(folder)
    return folder


def test_there_and_back(ask: Ask, run: Path, tmp_path: Path, files: Study) -> None:
    exported = ask("export", run, "--out", tmp_path / "c.json", "--json")
    assert exported.code == 0, exported.err
    assert exported.json["format"] == "eap-ig" and exported.json["file"] == str(tmp_path / "c.json")
    words = ("import", tmp_path / "c.json", "--model", files.model, "--task", files.prompts, "--out", tmp_path / "new")
    imported = ask(*words, "--reference", "zero", "--json")
    assert imported.code == 0, imported.err
    assert imported.json["sizes"]["edge"] == exported.json["sizes"]["edge"]
    assert imported.json["origin"]["reference"] == "zero" and imported.json["origin"]["method"] == "imported"
    first, second = (Circuit.load(folder).edges for folder in (run, tmp_path / "new"))
    assert first and second and first.scores.equal(second.scores) and first.kept.equal(second.kept)
    again = ask(*words, "--json")
    assert again.code == 2 and "--resume" not in again.err and "is not empty" in again.err
    assert ask(*words, "--edges", 20, "--overwrite").code == 0
    third = Circuit.load(tmp_path / "new").edges
    assert third and 0 < int(third.kept.sum()) <= 20
    assert ask("show", tmp_path / "new").code == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--format", "mbi"], "no format 'mbi'; did you mean 'mib'?"),
        (["--cell", "ioi_gpt2"], "--cell says nothing to the format eap-ig"),
        (["--all-edges"], "--all-edges says nothing to the format eap-ig"),
        (["--format", "mib"], "no task and model of the benchmark"),
    ],
)
def test_wrong_exports(ask: Ask, run: Path, tmp_path: Path, words: list[str], told: str) -> None:
    answer = ask("export", run, "--out", tmp_path / "out", *words)
    assert answer.code == 2 and told in answer.err and not (tmp_path / "out").exists()


def test_a_model_that_has_moved(ask: Ask, run: Path, tmp_path: Path, files: Study) -> None:
    circuit = Circuit.load(run)
    circuit.with_origin(circuit.origin.model_copy(update={"model": str(tmp_path / "gone")})).save(run)
    assert ask("export", run, "--out", tmp_path / "c.json").code == 2
    assert ask("export", run, "--out", tmp_path / "c.json", "--model", files.model).code == 0
    other = save(tiny("gpt2"), tmp_path / "other")
    answer = ask("export", run, "--out", tmp_path / "d.json", "--model", other)
    assert answer.code == 2 and "the model has" in answer.err


def test_importing_what_is_not_there_or_not_of_this_model(ask: Ask, run: Path, tmp_path: Path, files: Study) -> None:
    words = ("--model", files.model, "--task", files.prompts, "--out", tmp_path / "new")
    assert ask("import", tmp_path / "none.json", *words).code == 3
    assert ask("import", tmp_path / "none.json", *words, "--reference", "corupt").code == 2
    assert ask("export", run, "--out", tmp_path / "c.json").code == 0
    content = json.loads((tmp_path / "c.json").read_text())
    content["cfg"]["n_heads"] = 8
    (tmp_path / "c.json").write_text(json.dumps(content))
    answer = ask("import", tmp_path / "c.json", *words, "--json")
    assert answer.code == 3 and "its cfg says n_heads 8, not 4" in answer.json["error"]["message"]
    encoder = save(tiny("bert"), tmp_path / "encoder")
    refused = ask("import", tmp_path / "c.json", "--model", encoder, *words[2:])
    assert refused.code == 5 and "is an encoder" in refused.err
    assert not (tmp_path / "new").exists()


def test_the_validator_as_a_command(ask: Ask, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "submission"
    written = ask("export", run, "--format", "mib", "--cell", "ioi_gpt2", "--out", folder)
    assert written.code == 0 and "check-mib" in written.err
    checked = ask("check-mib", folder, "--json")
    assert checked.code == 3
    told = " ".join(flaw["cause"] for flaw in checked.json["problems"])
    assert "its cfg says n_layers 2, not 12" in told and "two models at least" in told
    plain = ask("check-mib", folder)
    assert plain.code == 3 and "3 to mend" in plain.out
