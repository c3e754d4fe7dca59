"""`subcircuit concepts`, end to end on a tiny model in files."""

import json
from pathlib import Path

import pytest

import tiny_files
from commands import Ask, asking
from tiny_concepts import FRAME, corpus, spoken, told, write_corpus


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    return asking(monkeypatch, capsys)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and texts to fit and to score on."""
    folder = tmp_path_factory.mktemp("files")
    tiny_files.save(spoken(), folder / "model")
    write_corpus(folder / "fit.csv", told(spoken(), corpus(120)))
    write_corpus(folder / "score.csv", told(spoken(), corpus(20, seed=9)))
    return folder


def fitting(files: Path, out: Path, method: str = "kmeans", *more: object) -> list[object]:
    labels = [f"--label={label}={word}" for label, word in FRAME.labels.items()]
    common = ["--model", files / "model", "--texts", files / "fit.csv", "--template", FRAME.template, *labels]
    return ["concepts", "fit", method, *common, "--layer", 1, "--codes", 8, "--per-word", 0, "--out", out, *more]


@pytest.mark.parametrize("method", ["kmeans", "vqlc", "clvq", "ward", "sae"])
def test_fit_explain_score(files: Path, tmp_path: Path, ask: Ask, method: str) -> None:
    short: list[object] = [] if method == "ward" else ["--steps", 20]
    upper: list[object] = ["--upper", 2, "--heads", 4, "--hidden", 16] if method == "clvq" else []
    answer = ask(*fitting(files, tmp_path, method, *short, *upper, "--json"))
    assert answer.code == 0, answer.err
    about = answer.json["about"]
    assert about["method"] == method and about["asked"] == 8 and answer.json["codes"] <= 8
    assert about["revision"].startswith("sha256:") and about["layer"] == 1
    answer = ask("concepts", "explain", tmp_path, "a b c", "z y x w", "--words", 2, "--json")
    assert answer.code == 0, answer.err
    first, second = answer.json["texts"]
    assert first["answer"] in FRAME.labels and 0.5 <= first["probability"] <= 1
    assert len(second["words"]) == 2 and len(second["words"][0]["heads"]) == 3
    assert abs(second["words"][0]["score"]) >= abs(second["words"][1]["score"])
    answer = ask("concepts", "score", tmp_path, "--texts", files / "score.csv", "--steps", 2, "--json")
    assert answer.code == 0, answer.err
    report = answer.json["faithfulness"]
    assert report["texts"] == 20 and report["accuracy"]["mean"] == 1.0
    assert set(report["controls"]) >= {"random direction", "random code", "mean", "class means"}


def test_tables_for_people_and_agreement(files: Path, tmp_path: Path, ask: Ask) -> None:
    for name in ("one", "two"):
        answer = ask(
            *fitting(files, tmp_path / name, "kmeans", "--states", tmp_path / "states", "--seed", int(name == "two"))
        )
        assert answer.code == 0, answer.err
    assert "8 of 8 codes are in use" in answer.out and "concept" in answer.out
    answer = ask("concepts", "explain", tmp_path / "one", "a b c")
    assert answer.code == 0 and "written by" in answer.out and "head" in answer.out
    more = ["--beside", tmp_path / "two", "--seeds", 3, "--states", tmp_path / "states", "--steps", 2]
    answer = ask("concepts", "score", tmp_path / "one", "--texts", files / "score.csv", *more)
    assert answer.code == 0, answer.err
    assert "kmeans's concept" in answer.out and "two seeds agree with an adjusted Rand index of" in answer.out
    assert "mean of 3" in answer.out


def test_what_is_asked_wrongly_is_refused(files: Path, tmp_path: Path, ask: Ask) -> None:
    cases: list[tuple[list[object], int, str]] = [
        (fitting(files, tmp_path, "kmeens"), 2, "did you mean 'kmeans'"),
        (fitting(files, tmp_path, "kmeans", "--unit", "letter"), 2, "no unit 'letter'"),
        (fitting(files, tmp_path, "kmeans", "--label", "up"), 2, "has no word"),
        (fitting(files, tmp_path, "kmeans", "--label", "up=a b"), 2, "is 2 tokens"),
        (fitting(files, tmp_path, "clvq", "--preset", "papr"), 2, "did you mean 'paper'"),
        (fitting(files, tmp_path, "clvq"), 2, "give --upper LAYER"),
        (fitting(files, tmp_path / "n", "kmeans", "--layer", 9), 2, "has no layer 9"),
        (fitting(files, tmp_path / "m", "kmeans", "--codes", 9999), 3, "cannot fill 9999 codes"),
        (["concepts", "explain", tmp_path / "none", "a"], 2, "holds no codebook"),
        (["concepts", "score", tmp_path / "none", "--texts", files / "score.csv"], 2, "holds no codebook"),
        (["concepts", "ft"], 2, "did you mean 'fit'"),
    ]
    for words, code, message in cases:
        answer = ask(*words)
        assert (answer.code, message in answer.err.replace("\n", " ")) == (code, True), (words, answer.err)


def test_a_stopped_fit_goes_on_and_another_model_is_refused(files: Path, tmp_path: Path, ask: Ask) -> None:
    assert ask(*fitting(files, tmp_path)).code == 0
    shards = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    assert shards and ask(*fitting(files, tmp_path, "kmeans", "--codes", 5)).code == 0
    assert shards == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    record = json.loads((tmp_path / "codebook.json").read_text())
    record["about"]["revision"] = "sha256:0"
    (tmp_path / "codebook.json").write_text(json.dumps(record))
    answer = ask("concepts", "explain", tmp_path, "a b")
    assert answer.code == 3 and "give the model that it was fitted on" in answer.err
