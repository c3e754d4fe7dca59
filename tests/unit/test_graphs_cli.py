"""`subcircuit hierarchy` on a study in files."""

from pathlib import Path

import pytest

from commands import Ask, asking
from subcircuit.errors import DataError
from subcircuit.features.transcoders import write_transcoders
from subcircuit.graphs.study import FeatureCircuit
from subcircuit.loading import load
from tiny_folder import Study, study
from tiny_transcoders import random_transcoders


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    return asking(monkeypatch, capsys)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Study:
    made = study(tmp_path_factory.mktemp("hierarchy"))
    write_transcoders(random_transcoders(load(made.model)), made.model.parent / "transcoders")
    return made


def words(files: Study, out: Path, *more: object) -> list[object]:
    place = files.model.parent / "transcoders"
    base = ["find", "hierarchy", "--model", files.model, "--task", files.prompts, "--transcoders", place, "--out", out]
    return [*base, "--pairs", "24", "--validation", "16", "--test", "20", *more]


def test_a_circuit_of_features_with_its_evidence(files: Study, ask: Ask, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "features"
    answer = ask(*words(files, out, "--goal", "0.8", "--greedy", "--json"))
    assert answer.code == 0, answer.err
    told = FeatureCircuit.load(out)
    assert told == FeatureCircuit.model_validate(answer.json)
    assert told.value >= 0.8 and 0 < len(told.features) < told.candidates == told.levels[0]
    assert sorted(name for group in told.groups for name in group.features) == sorted(told.features)
    assert told.flat_tests == told.candidates + 1 > told.tests
    assert set(told.evidence.controls) == {"top activation", "top influence", "greedy"}
    assert len(told.evidence.random) == 20 and told.evidence.prompts == 20
    again = ask(*words(files, out))
    assert again.code == 2 and "not empty" in again.err
    shown = ask(*words(files, out, "--overwrite", "--ablation", "mean", "--any-position", "--goal", "0.5"))
    assert shown.code == 0 and "random, 20 draws" in shown.out, shown.err
    assert all("@" not in name for name in FeatureCircuit.load(out).features)


def test_a_goal_out_of_reach_is_said_and_saved(files: Study, ask: Ask, tmp_path: Path) -> None:
    answer = ask(*words(files, tmp_path / "out", "--goal", "1.0", "--pairs", "1", "--json"))
    told = FeatureCircuit.load(tmp_path / "out")
    assert answer.code == 7 and "features together keep" in answer.err
    assert told.value < 1.0 and len(told.features) == told.candidates


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--goal", "3"], "goal is 3"),
        (["--measure", "loss"], "measure 'loss'"),
        (["--ablation", "noise"], "ablation 'noise'"),
        (["--pairs", "0"], "pairs is 0"),
        (["--factor", "1"], "factor is 1"),
    ],
)
def test_wrong_settings_are_refused_before_a_model_loads(
    files: Study, ask: Ask, tmp_path: Path, more: list[str], said: str
) -> None:
    answer = ask(*words(files, tmp_path / "out", *more))
    assert answer.code == 2 and said in answer.err and not (tmp_path / "out").exists()


def test_a_folder_without_a_circuit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"features\.json is missing"):
        FeatureCircuit.load(tmp_path)
    (tmp_path / "features.json").write_text("{}")
    with pytest.raises(DataError, match="is not a circuit of features"):
        FeatureCircuit.load(tmp_path)
