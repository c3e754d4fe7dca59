"""`subcircuit features train|check` from the command line, on a tiny model."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from commands import Ask
from subcircuit.features.folders import read_dictionary
from tiny_folder import Study

SMALL = ("--features", 48, "--k", 4, "--steps", 150, "--batch", 128, "--revive", 30, "--rows", 2000)


@pytest.fixture(scope="module")
def texts(files: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tiny model reads, as a text file."""
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    rows = [row[name] for row in files.rows() for name in ("clean", "corrupt")]
    path.write_text("".join(f"{first} {second}\n" for first, second in pairwise(rows)))
    return path


def test_train_then_check(files: Study, texts: Path, tmp_path: Path, ask: Ask) -> None:
    out = tmp_path / "sae"
    trained = ask(
        *("features", "train", "--model", files.model, "--site", "1.resid", "--text", texts, "--out", out),
        *(*SMALL, "--json"),
    )
    assert trained.code == 0, trained.err
    assert trained.json["reads"] == trained.json["writes"] == "1.resid" and trained.json["fvu"] < 0.6
    assert read_dictionary(out).expected["fvu"] == pytest.approx(trained.json["fvu"])
    checked = ask("features", "check", out, "--model", files.model, "--text", texts, "--json")
    assert checked.code == 0 and checked.json["healthy"] and checked.json["findings"] == []
    assert checked.json["measured"]["l0"] == pytest.approx(4)
    told = ask("features", "check", out, "--model", files.model, "--text", texts)
    assert "healthy" in told.out and "FVU" in told.out


def test_a_dictionary_at_another_layer_is_code_3_and_says_why(
    files: Study, texts: Path, tmp_path: Path, ask: Ask
) -> None:
    out = tmp_path / "sae"
    arguments = ("--model", files.model, "--text", texts)
    assert ask("features", "train", *arguments, "--site", "2.resid", "--out", out, *SMALL).code == 0
    wrong = ask("features", "check", out, *arguments, "--site", "0.resid", "--json")
    assert wrong.code == 3 and not wrong.json["healthy"]
    assert "2.resid fits far better" in wrong.json["findings"][0]["cause"]
    said = ask("features", "check", out, *arguments, "--site", "0.resid")
    assert said.code == 3 and "use it at 2.resid" in said.out and "not to be trusted here" in said.out


def test_a_transcoder(files: Study, texts: Path, tmp_path: Path, ask: Ask) -> None:
    arguments = ("--model", files.model, "--text", texts)
    places = ("--site", "0.mlp_in", "--to", "0.mlp_out", "--out", tmp_path / "coder")
    trained = ask("features", "train", *arguments, *places, *SMALL, "--json")
    assert trained.code == 0 and trained.json["writes"] == "0.mlp_out"
    config = json.loads((tmp_path / "coder" / "cfg.json").read_text())
    assert config["metadata"]["hook_name_out"] == "blocks.0.hook_mlp_out"


def test_wrong_use_is_told_before_a_model_is_loaded(tmp_path: Path, ask: Ask) -> None:
    train = ("features", "train", "--model", "nowhere", "--out", tmp_path / "sae")
    assert ask(*train, "--site", "1").code == 2
    assert "no kind 'resd'; did you mean 'resid'?" in ask(*train, "--site", "1.resd").err
    assert "k is 99" in ask(*train, "--site", "1.resid", "--features", 8, "--k", 99).err
    (tmp_path / "sae").mkdir()
    (tmp_path / "sae" / "notes.txt").write_text("mine")
    assert "is not empty" in ask(*train, "--site", "1.resid").err
    answer = ask("features", "check", tmp_path, "--model", "nowhere", "--json")
    assert answer.code == 2 and "holds no dictionary" in answer.json["error"]["message"]
    assert "did you mean 'train'" in ask("features", "trian").err
