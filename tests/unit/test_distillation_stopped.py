"""`subcircuit distill` stopped from outside, and gone on with: the weights of a run that nothing stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from commands import Ask
from subcircuit.distillation import STATE
from tiny import tiny
from tiny_files import save

STEPS = 40


def words(folder: Path, out: Path) -> list[str]:
    """The command: a checkpoint every second step."""
    files = {"student": folder / "student", "teacher": folder / "teacher", "prompts": folder / "prompts.txt"}
    given = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    some = {"batch": 4, "new_tokens": 6, "micro": 2, "updates": 2, "save_every": 2}
    settings = [part for name, value in some.items() for part in ("--set", f"{name}={value}")]
    return ["distill", *given, "--out", str(out), "--steps", str(STEPS), "--tau", "2.5", "--lr", "1e-3", *settings]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("student", "teacher")):
        save(tiny("llama", seed=seed), folder / name)
    (folder / "prompts.txt").write_text("a b c\nd e\nf g h i\nj k\nl m n\n")
    return folder


def stopped(models: Path, out: Path, number: signal.Signals) -> tuple[int, str]:
    """Start the command, and send a signal when it has left a checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "subcircuit", *words(models, out)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job would ignore it
    )
    deadline = time.monotonic() + 120
    while not (out / STATE).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, number)
    _, told = process.communicate(timeout=120)
    return process.returncode, told


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_ends_with_the_very_weights(
    ask: Ask, models: Path, tmp_path: Path, number: signal.Signals
) -> None:
    code, told = stopped(models, tmp_path / "cut", number)
    assert {path.name for path in (tmp_path / "cut").iterdir()} - {"distillation.part"} == {STATE}
    if number is signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 130 and "Traceback" not in told
        assert "the last checkpoint is kept" in told and "--resume goes on" in told
    for out, more in (("cut", ["--resume"]), ("whole", [])):
        answer = ask(*words(models, tmp_path / out), *more, "--quiet")
        assert answer.code == 0, answer.err
    cut, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("cut", "whole"))
    assert cut.keys() == whole.keys() and all(torch.equal(cut[name], whole[name]) for name in whole)
    before = load_file(models / "student" / "model.safetensors")
    assert not all(torch.equal(whole[name], before[name]) for name in whole)  # something was learned
    records = [(tmp_path / name / "distillation.json").read_bytes() for name in ("cut", "whole")]
    assert records[0] == records[1]


def test_a_first_checkpoint_that_was_cut_short_is_begun_again(ask: Ask, models: Path, tmp_path: Path) -> None:
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "distillation.part").write_bytes(b"half of")
    given = [word if word != str(STEPS) else "2" for word in words(models, tmp_path / "cut")]
    assert ask(*given, "--resume", "--quiet").code == 0
    assert (tmp_path / "cut" / "model.safetensors").is_file()


def test_other_prompts_are_another_run(ask: Ask, models: Path, tmp_path: Path) -> None:
    stopped(models, tmp_path / "cut", signal.SIGKILL)
    prompts = tmp_path / "others.txt"
    prompts.write_text("a b c\nd e\nf g h i\nj k\nl m o\n")  # as many, and one word is another
    given = [str(prompts) if word == str(models / "prompts.txt") else word for word in words(models, tmp_path / "cut")]
    answer = ask(*given, "--resume")
    assert answer.code == 2 and "started with other settings (prompts: 5, sha256:" in answer.err


@pytest.mark.slow
def test_accelerate_launches_two_processes(models: Path, tmp_path: Path) -> None:
    given = [word if word != str(STEPS) else "4" for word in words(models, tmp_path / "both")]
    launch = ["-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2"]
    plain = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    done = subprocess.run(
        [sys.executable, *launch, *plain, "-m", "subcircuit", *given],
        env=os.environ | {"ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("tokens in 8 updates") == 1  # one of them tells
    history = json.loads((tmp_path / "both" / "distillation.json").read_text())["history"]
    assert sum(facts["tokens"] for facts in history) > 4 * 2 * 6  # more than half of the rows could have had
    assert load_file(tmp_path / "both" / "model.safetensors")
