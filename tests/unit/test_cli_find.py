"""`find`, `score` and `show` on a planted model: what they write, how they stop, how they go on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
import yaml
from safetensors.torch import load_file, save_file

from commands import Ask, schema
from subcircuit.circuit import Circuit
from subcircuit.cli._find import _recorded
from subcircuit.errors import Interrupted
from subcircuit.evaluation import Evidence
from subcircuit.runs import RunFolder
from tiny import NODES
from tiny_folder import Study

SETTINGS = ("--kl", "0.05", "--steps", "60", "--batch", "8", "--lr", "0.15")
MANY = ("--steps", "250")
FILES = {"run.yaml", "circuit.json", "scores.safetensors"}


@pytest.fixture(scope="module")
def found(files: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, made by a process of its own."""
    return finished(command(files, tmp_path_factory.mktemp("found") / "run"))


@pytest.fixture(scope="module")
def whole(files: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of many steps that nobody stopped."""
    return finished(command(files, tmp_path_factory.mktemp("whole") / "run", *MANY))


def finished(words: list[str]) -> Path:
    subprocess.run([sys.executable, "-m", "subcircuit", *words], check=True, capture_output=True)
    return Path(words[words.index("--out") + 1])


def command(files: Study, out: Path, *more: str) -> list[str]:
    given = ["--model", files.model, "--task", files.prompts, "--out", out, "--device", "cpu", *SETTINGS, *more]
    return ["find", "node-pruning", *map(str, given)]


def broken(files: Study, folder: Path) -> Path:
    """The model with a weight that is no number."""
    model = shutil.copytree(files.model, folder / "model")
    weights = load_file(model / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][0, 5] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    return Path(model)


def content(run: Path) -> tuple[object, ...]:
    """All that must be the same in two runs of one command."""
    file = json.loads((run / "circuit.json").read_text())
    scores = {name: score.tolist() for name, score in load_file(run / "scores.safetensors").items()}
    return file["nodes"], file["sizes"], file["origin"]["result"], scores


def record(run: Path) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load((run / "run.yaml").read_text())
    jsonschema.validate(found, schema("run"))
    return found


def test_find_writes_the_planted_circuit_and_its_record(ask: Ask, files: Study, found: Path, tmp_path: Path) -> None:
    answer = ask(*command(files, tmp_path / "run", "--json"))
    assert answer.code == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    nodes = json.loads((tmp_path / "run" / "circuit.json").read_text())["nodes"]
    heads, neurons = (
        [f"{layer}.{kind}.{unit}" for layer, unit in at] for at, kind in zip(NODES, ("head", "neuron"), strict=True)
    )
    assert (nodes["head"], nodes["neuron"]) == (heads, neurons)
    (circuit,) = answer.json["circuits"]
    assert circuit["kl"] <= circuit["budget"] == 0.05
    assert circuit["sizes"]["head"] == {"kept": 2, "total": 8}
    run = record(tmp_path / "run")
    assert (run["status"], run["device"], run["task"]) == ("finished", "cpu", str(files.prompts))
    assert run["settings"]["steps"] == 60 and run["settings"]["seed"] == 0  # type: ignore[index]
    jsonschema.validate(json.loads((tmp_path / "run" / "circuit.json").read_text()), schema("circuit"))
    assert content(tmp_path / "run") == content(found)  # of another process


def test_a_folder_is_not_written_over_unless_asked_and_foreign_files_stay(
    ask: Ask, files: Study, found: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(found, tmp_path / "run")
    (run / "notes.txt").write_text("mine")
    (run / "evidence.json").write_text("{}")
    answer = ask(*command(files, run), "--model", "no-such-model")
    assert answer.code == 2
    assert "is not empty" in answer.err and "--resume" in answer.err and "--overwrite" in answer.err
    assert content(run) == content(found)
    assert ask(*command(files, run, "--overwrite", "--model", str(tmp_path / "nowhere"))).code == 2
    assert (run / "evidence.json").exists()  # nothing is removed for a run that cannot begin
    assert ask(*command(files, run, "--overwrite", "--steps", "1", "--kl", "9", "--quiet")).code == 0
    assert record(run)["settings"]["steps"] == 1  # type: ignore[index]
    assert {path.name for path in run.iterdir()} == FILES | {"notes.txt"}


@pytest.mark.parametrize("fault", ["prompts", "weights"])
def test_a_run_that_was_to_be_replaced_is_whole_when_the_search_cannot_begin(
    ask: Ask, files: Study, found: Path, tmp_path: Path, fault: str
) -> None:
    run = shutil.copytree(found, tmp_path / "run")
    (run / "evidence.json").write_text("{}")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    bad = tmp_path / "bad.jsonl"
    bad.write_text(files.prompts.read_text().replace("word", "no such word ", 1))
    more = ["--task", bad] if fault == "prompts" else ["--model", broken(files, tmp_path), "--warm-start", "0"]
    answer = ask(*command(files, run, "--overwrite"), *more)
    assert answer.code == {"prompts": 3, "weights": 6}[fault]
    assert "is as it was" in answer.err
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def search_that_raises(error: BaseException, run: Path, folder: Path) -> None:
    """Go as far as a first line of `run.yaml`, that of another run, and no further."""
    begun = RunFolder(run).read()
    assert begun is not None
    with _recorded(begun.model_copy(update={"status": "running"}), RunFolder(folder), 0.0, anew=True):
        assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == ["run.yaml"]
        assert record(folder)["status"] == "running"
        raise error


def test_an_error_of_any_kind_is_recorded(found: Path, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        search_that_raises(ZeroDivisionError(), found, tmp_path)
    assert record(tmp_path)["status"] == "failed"


def test_a_stop_before_the_first_step_of_a_replacement_brings_the_earlier_run_back(found: Path, tmp_path: Path) -> None:
    run = shutil.copytree(found, tmp_path / "run")
    with pytest.raises(Interrupted) as stopped:
        search_that_raises(KeyboardInterrupt(), found, run)
    assert stopped.value.cure == "the earlier run is as it was: start again as before"
    assert content(run) == content(found)
    assert record(run)["status"] == "finished"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_search_goes_on_to_the_same_circuit(
    ask: Ask, files: Study, whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "subcircuit", *command(files, tmp_path / "cut", *MANY)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job would ignore it
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "cut" / "search.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, number)
    _, told = process.communicate(timeout=120)
    if number is signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
        assert record(tmp_path / "cut")["status"] == "running"
    else:
        assert process.returncode == 130
        assert "Traceback" not in told
        assert "go on with: subcircuit find node-pruning" in told and told.rstrip().endswith("--resume")
        assert record(tmp_path / "cut")["status"] == "interrupted"
    assert not (tmp_path / "cut" / "circuit.json").exists()
    assert ask("show", tmp_path / "cut").code == 3

    changed = ask(*command(files, tmp_path / "cut", *MANY, "--lr", "0.1", "--resume"))
    assert (changed.code, "settings.lr: 0.15 -> 0.1" in changed.err) == (2, True)
    assert ask(*command(files, tmp_path / "cut", *MANY, "--resume", "--quiet")).code == 0
    assert content(tmp_path / "cut") == content(whole)
    assert record(tmp_path / "cut")["status"] == "finished"


def test_resume_of_a_finished_run_says_so_and_of_none_begins(
    ask: Ask, files: Study, found: Path, tmp_path: Path
) -> None:
    before = (found / "run.yaml").read_bytes()
    answer = ask(*command(files, found, "--resume", "--json"))
    assert answer.code == 0
    assert "finished run" in answer.err
    assert answer.json["circuits"][0]["sizes"]["neuron"]["kept"] == len(NODES[1])
    assert (found / "run.yaml").read_bytes() == before
    assert ask(*command(files, tmp_path / "new", "--resume", "--steps", "1", "--kl", "9")).code == 0


def test_a_family_has_a_folder_per_budget(ask: Ask, files: Study, tmp_path: Path) -> None:
    answer = ask(*command(files, tmp_path / "run", "--budgets", "1,0.05", "--json"))
    assert answer.code == 0
    assert [(each["budget"], Path(each["folder"]).name) for each in answer.json["circuits"]] == [
        (0.05, "kl-0.05"),
        (1.0, "kl-1"),
    ]
    assert content(tmp_path / "run") == content(tmp_path / "run" / "kl-0.05")
    shown = ask("show", tmp_path / "run" / "kl-1", "--json").json
    assert set(shown["nodes"]["neuron"]) <= set(ask("show", tmp_path / "run", "--json").json["nodes"]["neuron"])
    assert record(tmp_path / "run" / "kl-1")["settings"]["kl"] == 1.0  # type: ignore[index]
    assert [Path(path).name for path in ask("show", tmp_path / "run", "--json").json["family"]] == ["kl-0.05", "kl-1"]


def test_a_budget_that_is_not_met_is_told_and_the_circuit_stays(
    ask: Ask, files: Study, found: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(found, tmp_path / "run")
    file = json.loads((run / "circuit.json").read_text())
    file["origin"]["result"]["kl"] = 0.0625  # with every node open KL is 0, so that no search fails by itself
    (run / "circuit.json").write_text(json.dumps(file))
    answer = ask(*command(files, run, "--resume", "--json"))
    assert answer.code == 7
    assert answer.json["status"] == "budget-not-met"
    assert "KL 0.0625 for a budget of 0.05" in answer.json["error"]["message"]
    assert str(run) in answer.err and "--steps than 60" in answer.err and "--kl" in answer.err
    assert answer.json["circuits"][0]["sizes"]["head"]["kept"] == 2
    assert Circuit.load(run).origin.result["budget"] == 0.05


def test_a_loss_that_is_no_number_stops_and_is_recorded(ask: Ask, files: Study, tmp_path: Path) -> None:
    answer = ask(*command(files, tmp_path / "run"), "--model", broken(files, tmp_path), "--warm-start", "0", "--json")
    assert answer.code == 6
    assert answer.json["error"]["kind"] == "NumericalError"
    assert "step 1" in answer.err
    assert record(tmp_path / "run")["status"] == "failed"


def test_a_target_size_and_the_paper_preset_have_no_budget(ask: Ask, files: Study, tmp_path: Path) -> None:
    for name, more in {"size": ["--size", "0.3"], "paper": ["--preset", "paper", "--batch", "8"]}.items():
        answer = ask(*command(files, tmp_path / name, *more, "--steps", "3", "--json"))
        assert (answer.code, answer.json["circuits"][0]["budget"]) == (0, None)
    assert record(tmp_path / "paper")["settings"]["gates"] == "sampled"  # type: ignore[index]


def test_score_writes_evidence_and_prints_it(ask: Ask, found: Path, tmp_path: Path) -> None:
    run = shutil.copytree(found, tmp_path / "run")
    answer = ask("score", run, "--controls", "3", "--json")
    assert answer.code == 0
    evidence = Evidence.load(run)
    assert json.loads(evidence.model_dump_json()) == answer.json["evidence"]
    jsonschema.validate(json.loads((run / "evidence.json").read_text()), schema("evidence"))
    assert answer.json["verdict"] == evidence.verdict
    assert (evidence.split, evidence.pairs, len(evidence.random)) == ("test", 24, 3)
    text = ask("score", run, "--controls", "3", "--quiet").out
    for row in ("full model", "circuit", "attribution", "integrated gradients", "random, mean of 3", "empty circuit"):
        assert row in text
    assert "kept: 2 of 2 block, 2 of 2 attn, 2 of 2 mlp, 2 of 8 head, 16 of 64 channel, 3 of 96 neuron" in text
    assert ask("show", run, "--json").json["scored"] is True


def test_score_refuses_other_weights_unless_forced(ask: Ask, files: Study, found: Path, tmp_path: Path) -> None:
    run = shutil.copytree(found, tmp_path / "run")
    file = json.loads((run / "circuit.json").read_text())
    file["origin"]["revision"] = f"sha256:{0:064}"
    (run / "circuit.json").write_text(json.dumps(file))
    answer = ask("score", run)
    assert answer.code == 3
    assert str(files.model) in answer.err and f"sha256:{0:064}" in answer.err and "--force" in answer.err
    assert not (run / "evidence.json").exists()
    assert ask("score", run, "--force", "--controls", "1", "--quiet").code == 0


def test_show_draws_heads_and_counts_neurons_without_torch(ask: Ask, found: Path) -> None:
    layers = [line.split() for line in ask("show", found).out.splitlines() if line.split()[0] in ("0", "1", "all")]
    assert layers == [
        ["0", "■", "■", "■", "·■··", "8", "1"],
        ["1", "■", "■", "■", "··■·", "8", "2"],
        ["all", "2/2", "2/2", "2/2", "2/8", "16/64", "3/96"],
    ]
    assert ask("show", found, "--kind", "head").out == "0.head.1 1.head.2\n"
    assert set(ask("show", found, "--kind", "head", "--json").json["nodes"]) == {"head"}
    wrong = ask("show", found, "--kind", "heads")
    assert (wrong.code, "did you mean 'head'?" in wrong.err) == (2, True)
    code = "import sys; from subcircuit.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", code, "show", str(found)], check=False, capture_output=True
    ).check_returncode()


def test_quiet_says_nothing_on_stderr(ask: Ask, files: Study, tmp_path: Path) -> None:
    answer = ask(*command(files, tmp_path / "run", "--steps", "1", "--kl", "9", "--quiet"))
    assert (answer.code, answer.err) == (0, "")
