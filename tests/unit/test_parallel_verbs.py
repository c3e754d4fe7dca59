"""Verbs in several processes: shared out with one process's numbers, or refused; and models that lie in parts."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from commands import Ask
from sharing import either, ended, free_port, start
from subcircuit.circuit import Circuit
from subcircuit.errors import UnsupportedModel
from subcircuit.subject import Subject
from tiny import tiny
from tiny_folder import Study

FEW = ("--pairs", "8", "--validation", "4", "--yes", "--quiet")
SCORE = ("--pairs", "10", "--controls", "3", "--full", "--seeds", "3", "--exact", "2")
ON_CPU = {"ACCELERATE_USE_CPU": "true"}
ACCELERATE = (  # on processors several processes are what it calls several cards; its --cpu starts one, or wants MPI
    *("-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
)


def words(files: Study, out: Path) -> list[str]:
    """A search by one backward pass."""
    on = ("--model", str(files.model), "--task", str(files.prompts), "--out", str(out))
    return ["find", "attribution-patching", *on, "--size", "0.25", *FEW]


def near(one: Any, other: Any) -> bool:
    """Whether two JSON values differ by rounding at most."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(near(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(near, one, other))
    return bool(one == pytest.approx(other, abs=1e-5)) if isinstance(one, float) else bool(one == other)


def shards(run: Path) -> set[str]:
    return {path.name for path in (run / "shards").rglob("*.safetensors")}


def test_two_processes_share_a_score(ask: Ask, files: Study, tmp_path: Path) -> None:
    alone, both = tmp_path / "alone", tmp_path / "both"
    assert ask(*words(files, alone)).code == 0
    shutil.copytree(alone, both)
    assert ask("score", alone, *SCORE, "--quiet").code == 0
    found = ended(start("-m", "subcircuit", "score", str(both), *SCORE))
    assert [code for code, *_ in found] == [0, 0], found
    assert "evidence" in found[0][1] and found[1][1] == "" and "Traceback" not in found[0][2] + found[1][2]
    for name in ("evidence.json", "full.json", "tokens.json"):
        one, two = (json.loads((run / name).read_text()) for run in (alone, both))
        assert near(one, two), name
    assert shards(both) == shards(alone) and len(shards(both)) == 3 + 2  # the same keys, random ones and seeds
    assert not list(both.rglob("*.part"))


def test_scores_on_different_prompts_are_refused(ask: Ask, files: Study, tmp_path: Path) -> None:
    assert ask(*words(files, tmp_path / "run")).code == 0
    found = ended(either(*(["score", str(tmp_path / "run"), "--pairs", "6", "--seed", seed] for seed in "01")))
    assert [code for code, *_ in found] == [2, 2], found
    assert all("processes 0 and 1 were started on different work: " in told and "seed" in told for _, _, told in found)


def test_what_is_not_shared_is_refused(ask: Ask, files: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    on = ("--model", files.model, "--texts", files.prompts, "--layer", "1", "--out", tmp_path / "book")
    answer = ask("concepts", "fit", "vqlc", *on)
    assert answer.code == 2 and "concepts in 2 processes: each of them would do all of its work" in answer.err
    assert "find, score, distill" in answer.err and not (tmp_path / "book").exists()


def lessons(files: Study, out: Path, text: str) -> list[str]:
    (prompts := out.parent / f"{len(text)}.txt").write_text(text)
    models = ("--student", str(files.model), "--teacher", str(files.model), "--prompts", str(prompts))
    settings = ("--set", "batch=4", "--set", "new_tokens=4", "--set", "micro=2", "--set", "save_every=1")
    return ["distill", *models, "--out", str(out), "--steps", "100000", *settings]


def test_pupils_of_different_prompts_are_refused(files: Study, tmp_path: Path) -> None:
    first, second = (lessons(files, tmp_path / "out", text) for text in ("a b c\nd e\n", "a b c\nd e f\n"))
    found = ended(either(first, second, **ON_CPU))
    assert [code for code, *_ in found] == [2, 2], found
    assert all("were started on different work: prompts (prompts: 2, sha256:" in told for _, _, told in found)
    assert not (tmp_path / "out").exists()


def test_a_killed_process_ends_the_lessons_of_the_other(files: Study, tmp_path: Path) -> None:
    given = lessons(files, tmp_path / "out", "a b c\nd e\n")
    first, second = either(given, given, **ON_CPU)
    while not (tmp_path / "out" / "distillation.safetensors").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.1)
    second.kill()
    _, told = first.communicate(timeout=240)
    second.communicate()
    assert first.returncode == 4 and "process 0 of 2 has lost another one" in told and "Traceback" not in told


def test_accelerate_launches_a_search(ask: Ask, files: Study, tmp_path: Path) -> None:
    search = [*("find", "node-pruning"), *words(files, tmp_path / "both")[2:8], *FEW, "--kl", "9", "--steps", "4"]
    search += ["--batch", "4"]
    command = [sys.executable, *ACCELERATE, "--main_process_port", free_port(), "-m", "subcircuit", *search]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ON_CPU
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("circuit in") == 1  # one of them tells
    search[search.index(str(tmp_path / "both"))] = str(tmp_path / "alone")
    assert ask(*search).code == 0
    one, two = (Circuit.load(tmp_path / name) for name in ("alone", "both"))
    assert one.scores.keys() == two.scores.keys() and any(score.abs().max() > 0.1 for score in one.scores.values())
    for site, score in one.scores.items():
        assert torch.allclose(score, two.scores[site], atol=1e-5, rtol=1e-5), site
        assert torch.equal(one.kept[site], two.kept[site])


@pytest.fixture
def group() -> Iterator[None]:
    """A group of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_model_in_parts_is_refused(group: None) -> None:
    model, mesh = tiny("llama").model, init_device_mesh("cpu", (1,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    with pytest.raises(UnsupportedModel, match=r"is in parts: .*shared out between processes") as refusal:
        Subject(model)
    assert "device 'spread'" in refusal.value.cure
