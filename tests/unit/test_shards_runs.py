"""`score` and `find activation-patching` with a launcher: one process's numbers, and only lost shards are run again."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from commands import Ask
from subcircuit.circuit import Circuit
from subcircuit.evaluation import Evidence, FullEvidence, full_evidence
from subcircuit.shards.launcher import Launcher
from tiny_circuit import by_hand, kept_nodes
from tiny_folder import Study
from tiny_task import planted_study

FEW = ("--pairs", "8", "--validation", "4", "--kinds", "head,mlp", "--size", "0.5", "--positions", "--yes")
SCORE = ("--pairs", "10", "--controls", "3", "--quiet")
LOCAL = ("--launcher", "local", "--jobs", "1")


def patch(ask: Ask, files: Study, out: Path, *more: str) -> Path:
    answer = ask(
        *("find", "activation-patching", "--model", files.model, "--task", files.prompts, "--out", out, *FEW, *more)
    )
    assert answer.code == 0, answer.err
    return out


@pytest.fixture
def run(ask: Ask, files: Study, tmp_path: Path) -> Path:
    """A run folder, found in one process."""
    return patch(ask, files, tmp_path / "run")


def near(one: Any, other: Any) -> bool:
    """Whether two JSON values differ by rounding at most."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(near(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(near, one, other))
    return bool(one == pytest.approx(other, abs=1e-5)) if isinstance(one, float) else bool(one == other)


def results(folder: Path) -> dict[str, int]:
    """When each shard's result was written."""
    return {path.stem: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}


def test_a_score_in_jobs_is_that_of_one_process_and_a_lost_shard_is_run_alone(ask: Ask, run: Path) -> None:
    assert ask("score", run, *SCORE).code == 0
    alone, folder = Evidence.load(run), run / "shards" / "random"
    here = results(folder)
    for path in folder.iterdir():
        path.unlink()
    (run / "evidence.json").unlink()
    answer = ask("score", run, *SCORE, *LOCAL)
    assert answer.code == 0, answer.err
    found, first = Evidence.load(run), results(folder)
    assert near(json.loads(found.model_dump_json()), json.loads(alone.model_dump_json()))
    assert len({scores.kl.mean for scores in found.random}) > 1
    assert first.keys() == here.keys() and len(first) == 3  # the same inputs, wherever they are run

    lost = sorted(first)[1]
    (folder / f"{lost}.safetensors").unlink()
    assert ask("score", run, *SCORE, *LOCAL).code == 0
    again = results(folder)
    assert {key for key in first if again[key] != first[key]} == {lost}
    assert Evidence.load(run) == found


def test_the_grid_in_jobs_is_that_of_one_process_and_a_lost_layer_is_patched_alone(
    ask: Ask, files: Study, run: Path, tmp_path: Path
) -> None:
    jobs = patch(ask, files, tmp_path / "jobs", *LOCAL)
    one, two = Circuit.load(run), Circuit.load(jobs)
    assert near({str(site): score.tolist() for site, score in two.scores.items()}, plain(one)) and any(
        score.abs().max() > 0.1 for score in one.scores.values()
    )
    assert all((one.kept[site] == two.kept[site]).all() for site in one.kept)
    maps = [load_file(folder / "positions.safetensors") for folder in (run, jobs)]
    assert near(*({name: each.tolist() for name, each in found.items()} for found in maps))

    first = results(jobs / "shards" / "patching")
    assert len(first) == len({site.layer for site in one.scores})
    lost = min(first)
    (jobs / "shards" / "patching" / f"{lost}.safetensors").unlink()
    patch(ask, files, jobs, *LOCAL, "--overwrite")
    again = results(jobs / "shards" / "patching")
    assert {key for key in first if again[key] != first[key]} == {lost}
    assert plain(Circuit.load(jobs)) == plain(two)


def plain(circuit: Circuit) -> dict[str, list[float]]:
    return {str(site): score.tolist() for site, score in circuit.scores.items()}


def test_searches_with_other_seeds_are_kept(tmp_path: Path) -> None:
    subject, task = planted_study()
    settings = {"size": 0.25, "kinds": "head", "pairs": 6, "validation": 4, "seed": 0}
    kept = {site: each for site, each in kept_nodes(subject, [(0, 1)], [(0, 3)]).items() if site.kind == "head"}
    circuit = by_hand(kept, method="attribution-patching", settings=settings)

    def score(launcher: Launcher | None, told: list[str]) -> FullEvidence:
        few: dict[str, Any] = {"n": 6, "controls": 2, "exact": 0, "seeds": 3, "launcher": launcher}
        return full_evidence(subject, circuit, task, **few, on_step=told.append)[1]

    plain, first, second = [], [], []
    found = score(None, plain)
    launcher = Launcher(tmp_path)
    assert score(launcher, first) == found == score(launcher, second)
    assert first == plain and len(second) == len(first)
    searched = [name for name in plain if name.startswith("searching again")]
    assert searched == ["searching again with seed 1", "searching again with seed 2"]
    assert not {*searched, "random 1 of 2"} & {*second}
    assert len(results(tmp_path / "seeds")) == 2


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--launcher", "slrum"), 2, "did you mean 'slurm'?"),
        (("--launcher", "slurm", "--slurm-partition", "gpu"), 4, "no Slurm on this machine"),
        (("--slurm-partition", "gpu"), 2, "with launcher here"),
    ],
)
def test_wrong_places_are_refused_before_anything_runs(
    ask: Ask, files: Study, tmp_path: Path, words: tuple[str, ...], code: int, told: str
) -> None:
    asked = ("find", "activation-patching", "--model", files.model, "--task", files.prompts, "--out", tmp_path / "out")
    answer = ask(*asked, *words, "--json")
    assert (answer.code, answer.json["error"]["exit_code"]) == (code, code) and told in answer.err
    assert not (tmp_path / "out").exists()


def test_a_method_that_is_not_cut_has_no_launcher(ask: Ask) -> None:
    assert "--launcher" in ask("find", "activation-patching", "--help").out
    assert "--launcher" not in ask("find", "node-pruning", "--help").out
