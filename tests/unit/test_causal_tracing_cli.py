"""Causal tracing from the command line: a folder for each size, and a score that says what replacing does."""

import json
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


def test_rivals_are_searched_at_the_runs_sizes_and_saved(ask: Ask, command: list[object], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert ask(*command, "--budgets", "1,3", "--positions", "judged,rest", "--out", run).code == 0
    few = ("--pairs", "8", "--controls", "2")
    found = ask("score", run, *few, "--rivals", "singles,dcm", "--json").json["budgets"]
    assert {search: [point["k"] for point in each] for search, each in found["curves"].items()} == {
        "gates": [1, 3],
        "singles": [1, 3],
        "dcm": [1, 3],
    }
    assert all("@" in node for point in found["curves"]["gates"] for node in point["nodes"])
    assert (run / "budgets.json").is_file()
    told = ask("score", run, *few, "--rivals", "random")
    assert "passes" in told.out and "random" in told.out
    refused = ask("score", run, "--rivals", "singels")
    assert refused.code == 2 and "did you mean 'singles'" in refused.err


def test_a_file_of_long_answers_is_a_task(ask: Ask, command: list[object], files: Study, tmp_path: Path) -> None:
    rows = files.rows()
    own = tmp_path / "long.jsonl"
    longer = ({**row, "answers": [row["answers"][0] + rows[0]["wrong_answers"][0]]} for row in rows)
    own.write_text("".join(json.dumps(row) + "\n" for row in longer))
    task = [f"continuations:{own}" if word == files.prompts else word for word in command]
    checked = ask("check", f"continuations:{own}", "--model", files.model, "--json")
    assert checked.code == 0 and checked.json["kept"] == len(rows)
    assert ask(*task, "--k", "2", "--out", tmp_path / "run").code == 0
    scored = ask("score", tmp_path / "run", "--pairs", "8", "--controls", "2", "--json").json["evidence"]
    assert scored["circuit"]["effect"]["mean"] != 0
