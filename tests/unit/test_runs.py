"""Run folders: what may be written over, what is removed, what a resumed run must have in common."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from subcircuit.errors import DataError, ResourceError, UsageError
from subcircuit.runs import FILES, Run, RunFolder

RUN = Run(
    method="node-pruning",
    settings={"kl": 0.3, "size": None, "budgets": ""},
    model="./model",
    revision="sha256:0",
    dtype="float32",
    device="cpu",
    task="ioi",
    task_options={"order": "ABBA"},
    versions={"python": "3.11"},
    started="2020-01-01T00:00:00+00:00",
)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "a" / "run")


def test_a_run_comes_back_as_it_was_written(folder: RunFolder) -> None:
    assert folder.read() is None
    folder.write(RUN)
    assert folder.read() == RUN
    assert [path.name for path in folder.path.iterdir()] == ["run.yaml"]
    plain = yaml.safe_load((folder.path / "run.yaml").read_text())
    assert plain["settings"] == {"kl": 0.3, "size": None, "budgets": ""}
    assert plain["status"] == "running"


@pytest.mark.parametrize("text", ["a: [", "just text", "method: x", "\x00", "{verb: find, unknown: 1}"])
def test_a_broken_record_is_bad_data(folder: RunFolder, text: str) -> None:
    folder.path.mkdir(parents=True)
    (folder.path / "run.yaml").write_text(text)
    with pytest.raises(DataError, match=r"run\.yaml is not the record of a run"):
        folder.read()


def test_new_and_empty_folders_are_free(folder: RunFolder) -> None:
    for mode in ({}, {"overwrite": True}, {"resume": True}):
        assert folder.claim(**mode) is None
    assert not folder.path.exists()  # nothing is made by asking
    folder.path.mkdir(parents=True)
    assert folder.claim() is None


def test_a_full_folder_needs_a_word(folder: RunFolder) -> None:
    folder.write(RUN)
    with pytest.raises(UsageError, match=re.escape(str(folder.path)) + " is not empty"):
        folder.claim()
    assert folder.claim(resume=True) == RUN
    assert folder.claim(overwrite=True) is None
    with pytest.raises(UsageError, match="exclude each other"):
        folder.claim(overwrite=True, resume=True)


def test_a_folder_of_something_else_is_no_run(folder: RunFolder) -> None:
    folder.path.mkdir(parents=True)
    (folder.path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="holds no run to go on with"):
        folder.claim(resume=True)
    with pytest.raises(UsageError, match="is a file, not a folder"):
        RunFolder(folder.path / "thesis.tex").claim(overwrite=True)


def test_clearing_takes_only_what_runs_write(folder: RunFolder) -> None:
    ours = [*FILES, "run.yaml.part", "kl-0.1/circuit.json", "kl-2/run.yaml"]
    theirs = ["notes.txt", "kl-2/plot.png", "kl-old/circuit.json", "other/circuit.json"]
    for name in [*ours, *theirs]:
        path = folder.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    folder.clear()
    assert sorted(str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file()) == sorted(
        theirs
    )
    assert not (folder.path / "kl-0.1").exists()


@pytest.fixture
def earlier(folder: RunFolder) -> dict[str, str]:
    """A whole run with a family, besides files of the user's; returns the run's content by path."""
    for name in (*FILES, "kl-0.1/circuit.json", "kl-2/run.yaml", "notes.txt", "kl-2/plot.png"):
        path = folder.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"earlier {name}")
    folder.write(RUN)
    return content(folder)


def content(folder: RunFolder) -> dict[str, str]:
    files = [path for path in folder.path.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder.path)): path.read_text() for path in files}


def begin(folder: RunFolder) -> None:
    """What another run writes before it has found anything."""
    folder.write(RUN.model_copy(update={"task": "capital"}))
    (folder.path / "search.part").touch()


def test_a_replaced_run_comes_back_whole_where_the_new_one_saved_nothing(
    folder: RunFolder, earlier: dict[str, str]
) -> None:
    folder.set_aside()
    assert {name for name in content(folder) if not name.startswith(".")} == {"notes.txt", "kl-2/plot.png"}
    assert folder.members() == [] and not (folder.path / "kl-0.1").exists()
    begin(folder)
    assert folder.settle()
    assert content(folder) == earlier and not folder.settle()
    assert [path.name for path in folder.path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("saved", ["search.safetensors", "circuit.json"])
def test_a_replaced_run_goes_where_the_new_one_has_saved_something(
    folder: RunFolder, earlier: dict[str, str], saved: str
) -> None:
    folder.set_aside()
    begin(folder)
    (folder.path / saved).write_text("new")
    assert not folder.settle()
    assert set(content(folder)) == {"notes.txt", "kl-2/plot.png", "run.yaml", "search.part", saved}
    assert (folder.path / saved).read_text() == "new"


def test_a_kill_before_the_record_is_written_leaves_nothing_to_go_on_with(tmp_path: Path) -> None:
    (tmp_path / "run.yaml.part").write_text("method: node-p")
    assert RunFolder(tmp_path).claim() is None and RunFolder(tmp_path).claim(resume=True) is None
    (tmp_path / "search.part").touch()
    (tmp_path / "search.safetensors").touch()
    RunFolder(tmp_path).tidy()
    assert list(tmp_path.iterdir()) == []


def test_a_kill_before_the_first_step_loses_nothing(folder: RunFolder, earlier: dict[str, str]) -> None:
    folder.set_aside()
    begin(folder)
    assert folder.claim(resume=True) == RUN
    assert content(folder) == earlier


@pytest.mark.parametrize("moved", range(4))
def test_a_kill_while_files_move_loses_nothing(
    folder: RunFolder, earlier: dict[str, str], moved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, left = os.replace, moved

    def killed(source: Path, target: Path) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        replace(source, target)

    def until(step: Callable[[], object]) -> None:
        nonlocal left
        left = moved
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                step()

    until(folder.set_aside)
    folder.set_aside()
    begin(folder)
    until(folder.settle)
    assert folder.claim(resume=True) == RUN
    assert content(folder) == earlier


def test_a_folder_of_notes_is_no_member(folder: RunFolder) -> None:
    folder.member(0.3).write(RUN)
    folder.member(2.0).path.mkdir()
    (folder.member(2.0).path / "notes.txt").touch()
    assert folder.members() == [folder.member(0.3)]


def test_members_come_smallest_budget_first(folder: RunFolder) -> None:
    for budget in (10.0, 0.3, 2.0):
        folder.member(budget).write(RUN)
    assert [member.path.name for member in folder.members()] == ["kl-0.3", "kl-2", "kl-10"]


def test_a_resumed_run_names_every_difference() -> None:
    RUN.require_same({"model": "./model", "settings": {"kl": 0.3, "size": None, "budgets": ""}})
    with pytest.raises(UsageError) as refused:
        RUN.require_same(
            {
                "settings": {"kl": 0.5, "size": None, "new": 1},
                "model": "./model",
                "task_options": {},
                "dtype": "bfloat16",
            }
        )
    assert refused.value.message == (
        "the run was started with other values (dtype: float32 -> bfloat16, settings.budgets:  -> None, "
        "settings.kl: 0.3 -> 0.5, settings.new: None -> 1, task_options.order: ABBA -> None)"
    )


def test_no_circuit_yet_says_how_to_go_on(folder: RunFolder) -> None:
    with pytest.raises(DataError, match="give a folder that `subcircuit find` wrote"):
        folder.circuit()
    folder.write(RUN.model_copy(update={"status": "interrupted"}))
    with pytest.raises(DataError, match=r"its search is interrupted(.|\n)*--resume"):
        folder.circuit()


def test_a_place_that_cannot_be_written_to_is_a_resource_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="cannot be written to"):
        RunFolder(tmp_path / "file" / "run").write(RUN)
