"""Several processes as one: two real ones on this machine find what one finds, and none outlives another."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sharing import SETTINGS, either, ended, find, free_port, start
from subcircuit.circuit import Circuit
from subcircuit.parallel.group import count, every, of_first, rank, require_same, summed
from subcircuit.parallel.rows import gathered, own, shared
from tiny import planted
from tiny_files import save
from tiny_folder import Study

SCRIPT = Path(__file__).parents[1] / "sharing.py"
WORDS = ("find", "node-pruning", "--steps", "4", "--pairs", "8", "--validation", "4", "--batch", "4", "--kl", "9")

GROUP = """
import json, sys
import torch
from subcircuit.parallel.group import *
from subcircuit.parallel.rows import *
from subcircuit.errors import SubcircuitError

with joined():
    at, total, runs = rank(), torch.zeros(3, dtype=torch.float64), []
    def work(rows):
        runs.append(rows.tolist())
        total.add_(torch.tensor([float(rows.sum()), len(rows), at]).double())
    shared(work, torch.tensor([5, 1, 4, 2, 3]), 2, total)
    few = gathered(lambda rows: 10.0 * rows.float(), torch.tensor([3]), 2)
    table = gathered(lambda rows: torch.stack([rows, rows**2], 1).float(), torch.tensor([5, 1, 4, 2, 3]), 2)
    told = of_first({"a": torch.full((2, 2), float(at)), "b": torch.tensor(at)} if at == 0 else {})
    said = every(f"I am {at} é")
    try:
        require_same({"prompts": "same", "weights": at})
    except SubcircuitError as error:
        refused = str(error)
    print(json.dumps([runs, total.tolist(), few.tolist(), table.tolist(), told["a"].sum().item(), said, refused]))
"""

LONELY = """
import os, sys, time
from subcircuit.parallel.group import joined, summed
from subcircuit.errors import SubcircuitError
import torch

try:
    with joined():
        if os.environ["RANK"] == "1":
            END
        summed(torch.zeros(3))
except SubcircuitError as error:
    print(type(error).__name__, error)
    sys.exit(error.exit_code)
"""


def test_alone_a_process_is_all_of_them() -> None:
    total, rows = torch.ones(2), torch.arange(4)
    summed(total)
    assert (count(), rank(), every("a")) == (1, 0, ["a"]) and total.tolist() == [1, 1] and torch.equal(own(rows), rows)
    require_same({"anything": 1})
    assert of_first({"a": total})["a"] is total
    seen: list[list[int]] = []
    assert shared(lambda some: seen.append(some.tolist()), torch.tensor([5, 1, 4, 2]), 3) == 3
    assert seen == [[1, 3, 2], [0]]  # shortest first, as `batched` has them
    assert gathered(lambda some: some * 2, torch.tensor([5, 1, 4, 2]), 3).tolist() == [0, 2, 4, 6]


def test_rows_are_shared_out_and_everybody_has_the_sum() -> None:
    first, second = (json.loads(out) for code, out, err in ended(start("-c", GROUP)) if code == 0 or pytest.fail(err))
    assert first[0] == [[1, 4], [0]] and second[0] == [[3, 2]]  # by length: 1, 2, 3, 4, 5 in turns
    assert first[1] == second[1] == [10, 5, 1]  # the sum of the rows, their number, one batch of the second process
    assert first[2] == second[2] == [0]
    assert first[3] == second[3] == [[0, 0], [1, 1], [2, 4], [3, 9], [4, 16]]
    assert first[4] == second[4] == 0 and first[5] == second[5] == ["I am 0 é", "I am 1 é"]
    assert "processes 0 and 1 were started on different work: weights (weights: 0 and 1)" in first[6]
    assert first[6] == second[6]


@pytest.mark.parametrize(
    ("end", "wait"),
    [("os._exit(3)", "600"), ("raise ValueError", "600"), ("time.sleep(60)", "10")],
    ids=["killed", "failed", "hangs"],
)
def test_nobody_waits_for_a_process_that_is_gone(end: str, wait: str) -> None:
    began = time.monotonic()
    processes = start("-c", LONELY.replace("END", end), SUBCIRCUIT_WAIT=wait)
    out, _ = processes[0].communicate(timeout=200)
    assert processes[0].returncode == 4 and out.count("process 0 of 2 has lost another one") == 1
    processes[1].kill()
    processes[1].communicate()
    assert time.monotonic() - began < 150


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes find by every method."""
    folder = tmp_path_factory.mktemp("both")
    for code, _, err in ended(start(SCRIPT, folder, *SETTINGS), 600):
        assert code == 0, err
    return folder


@pytest.mark.parametrize("method", SETTINGS)
def test_two_processes_find_what_one_finds(both: Path, method: str) -> None:
    alone, shared_out = find(method), Circuit.load(both / method)
    assert alone.scores.keys() == shared_out.scores.keys()
    for site, score in alone.scores.items():
        assert torch.allclose(score, shared_out.scores[site], atol=1e-5, rtol=1e-5), site
        assert torch.equal(alone.kept[site], shared_out.kept[site])
    assert shared_out.origin.result["kl"] == pytest.approx(alone.origin.result["kl"], abs=1e-5)
    assert any(score.abs().max() > 0.1 for score in alone.scores.values())


def words(files: Study, out: Path) -> list[str]:
    return [*WORDS, "--model", str(files.model), "--task", str(files.prompts), "--out", str(out), "--yes"]


def test_the_first_process_writes_and_tells(files: Study, tmp_path: Path) -> None:
    found = ended(start("-m", "subcircuit", *words(files, tmp_path / "both")))
    assert [code for code, *_ in found] == [0, 0], found
    assert "circuit in" in found[0][1] and found[1][1] == ""
    assert "Traceback" not in found[0][2] + found[1][2]
    run = [sys.executable, "-m", "subcircuit", *words(files, tmp_path / "alone")]
    subprocess.run(run, check=True, capture_output=True)
    one, two = (Circuit.load(tmp_path / name) for name in ("alone", "both"))
    for site, score in one.scores.items():
        assert torch.allclose(score, two.scores[site], atol=1e-5, rtol=1e-5)
    again = ended(start("-m", "subcircuit", *words(files, tmp_path / "both"), "--resume"))
    assert [code for code, *_ in again] == [0, 0] and "nothing to go on with" in again[0][2]
    refused = ended(start("-m", "subcircuit", *words(files, tmp_path / "both")))
    assert refused[0][0] == 2 and "is not empty" in refused[0][2] and refused[1][0] == 4


@pytest.mark.parametrize("what", ["prompts", "model"])
def test_processes_on_different_prompts_or_models_are_refused(files: Study, tmp_path: Path, what: str) -> None:
    other = tmp_path / "other"
    if what == "prompts":
        rows = files.prompts.read_text().splitlines()
        (other := tmp_path / "other.jsonl").write_text("\n".join(rows[1:9] + rows[:1] + rows[9:]) + "\n")
    else:
        save(planted("llama", seed=1), other)
    first, second = (words(files, tmp_path / "out") for _ in range(2))
    second[second.index(str(getattr(files, what)))] = str(other)
    found = ended(either(first, second))
    assert [code for code, *_ in found] == [2, 2]
    for _, _, told in found:
        name = {"prompts": "prompts", "model": "revision"}[what]
        assert f"processes 0 and 1 were started on different work: {name} ({name}: {getattr(files, what)} " in told
        assert f" and {other} " in told


def test_a_killed_process_ends_the_search_of_the_other(files: Study, tmp_path: Path) -> None:
    given = words(files, tmp_path / "out")
    given[given.index("--steps") + 1] = "100000"
    first, second = start("-m", "subcircuit", *given)
    state = tmp_path / "out" / "search.safetensors"
    while not state.exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.1)
    second.kill()
    _, told = first.communicate(timeout=240)
    second.communicate()
    assert first.returncode == 4 and "Traceback" not in told and "process 0 of 2 has lost another one" in told
    assert "--resume" in told and state.exists()  # what was found is kept


@pytest.mark.slow
def test_torchrun_starts_them_and_a_signal_ends_them(files: Study, tmp_path: Path) -> None:
    port = ["--master_port", free_port()]
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", *port, "-m", "subcircuit"]
    given = words(files, tmp_path / "out")
    given[given.index("--steps") + 1] = "100000"
    process = subprocess.Popen(
        [sys.executable, *launch, *given], stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    state = tmp_path / "out" / "search.safetensors"
    while not state.exists():
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode != 0 and state.exists()
    assert "interrupted" in (tmp_path / "out" / "run.yaml").read_text()
