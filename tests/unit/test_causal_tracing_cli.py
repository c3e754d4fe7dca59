"""Causal tracing from the command line: a folder for each size, and a score that says what replacing does."""

from pathlib import Path

import pytest

from commands import Ask
from tiny_folder import Study


@pytest.fixture(scope="module")
def command(files: Study) -> list[object]:
    """All but the folder and the size."""
    settings = ["--kinds", "head,mlp", "--pairs", "16", "--validation", "8"]
    return ["find", "causal-tracing", "--model", files.model, "--task", files.prompts, *settings]


def test_sizes_have_folders_that_nest_and_are_scored(ask: Ask, command: list[object], tmp_path: Path) -> None:
    run = tmp_path / "run"
    found = ask(*command, "--metric", "odds-ratio", "--budgets", "3,1", "--out", run, "--json")
    assert found.code == 0
    assert [Path(each["folder"]).name for each in found.json["circuits"]] == ["k-1", "k-3"]
    assert [sum(size["kept"] for size in each["sizes"].values()) for each in found.json["circuits"]] == [1, 3]
    small, large = (ask("show", run / name, "--json").json["nodes"] for name in ("k-1", "k-3"))
    assert all(set(small[kind]) <= set(large[kind]) for kind in small)
    scored = ask("score", run / "k-3", "--controls", "4", "--json").json["evidence"]
    assert (scored["setting"]["set"], scored["setting"]["direction"]) == ("the circuit", "noising")
    assert scored["full"]["effect"]["mean"] == 0 < scored["circuit"]["effect"]["mean"]
    assert len(scored["random"]) == 4 and all(each["effect"] for each in scored["random"])


def test_the_table_says_what_is_replaced(ask: Ask, command: list[object], tmp_path: Path) -> None:
    assert ask(*command, "--k", "2", "--out", tmp_path / "run").code == 0
    told = ask("score", tmp_path / "run", "--controls", "2")
    assert told.code == 0
    assert "nothing replaced" in told.out and "everything replaced" in told.out and "effect" in told.out
    refused = ask("score", tmp_path / "run", "--full")
    assert refused.code == 2 and "score it without --full" in refused.err


def test_too_many_components_are_refused_with_their_number(ask: Ask, command: list[object], tmp_path: Path) -> None:
    refused = ask(*command, "--k", "11", "--out", tmp_path / "run")
    assert refused.code == 2 and "11 components to replace" in refused.err


def test_the_paper_is_a_preset(ask: Ask, command: list[object], tmp_path: Path) -> None:
    told = ask(*command, "--k", "4", "--preset", "paper", "--steps", "2", "--out", tmp_path / "run", "--json")
    assert told.code == 0
    assert "search: paper" in (tmp_path / "run" / "run.yaml").read_text()
