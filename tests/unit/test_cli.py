"""The command line on its own: what there is, the prompt doctor, wrong use, exit codes. Nothing here searches."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commands import Ask
from subcircuit import errors, plugins
from subcircuit.builtin import builtin_models
from subcircuit.cli._shell import stoppable
from tiny_folder import Study


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["find", "--help"],
        ["find", "node-pruning", "--help"],
        ["bench", "ground-truth", "--help"],
        ["list", "tasks", "--json"],
        ["list", "models"],
        ["find", "nothing", "--json"],
        ["find", "node-pruning", "--model", "x", "--task", "no-task", "--out", "nowhere"],
    ],
)
def test_answers_without_importing_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from subcircuit.cli import main\n"
        "try: main()\n"
        'finally: sys.stderr.write(f\'heavy: {[name for name in ("torch", "transformers") if name in sys.modules]}\')'
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.stderr.endswith("heavy: []")


def test_python_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "subcircuit", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == "subcircuit 0.1.0\n"


def test_help_of_a_method_has_an_option_per_field_and_the_exit_codes_are_told(ask: Ask) -> None:
    text = ask("find", "node-pruning", "--help").out
    for option in plugins.options("methods", "node-pruning"):
        assert f"--{option.name.replace('_', '-')} " in text
    assert "--preset" in text
    overview = " ".join(ask("--help").out.split())
    tree = [errors.SubcircuitError, *errors.SubcircuitError.__subclasses__()]
    for code in {each.exit_code for each in tree}:
        assert f"{code} " in overview.partition("Exit codes")[2]


@pytest.mark.parametrize("what", ["tasks", "methods", "families"])
def test_list_is_what_the_folders_hold(ask: Ask, what: str) -> None:
    answer = ask("list", what, "--json")
    assert [item["name"] for item in answer.json["items"]] == plugins.names(what)
    assert all(item["about"] for item in answer.json["items"])
    assert all(name in ask("list", what).out for name in plugins.names(what))


def test_list_tells_of_models_and_of_settings(ask: Ask) -> None:
    assert [item["name"] for item in ask("list", "models", "--json").json["items"]] == list(builtin_models())
    (method,) = (item for item in ask("list", "methods", "--json").json["items"] if item["name"] == "node-pruning")
    first = method["settings"][0]
    assert (first["name"], first["type"], first["default"]) == ("kl", "float", 0.3)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["list", "model"], "did you mean 'models'?"),
        (["fnd"], "did you mean 'find'?"),
        (["find", "node-prunning"], "did you mean 'node-pruning'?"),
        (["find", "node-pruning"], "--model"),
        (["find", "node-pruning", "--modle", "x"], "--model"),
        (["find", "node-pruning", "--steps", "many"], "--steps"),
        (["find", "node-pruning", "--task", "iol"], "did you mean 'ioi'?"),
        (["find", "node-pruning", "--task", "my.jsonl"], "there is no file my.jsonl"),
        (["find", "node-pruning", "--task-option", "ordr=ABBA"], "did you mean 'order'?"),
        (["find", "node-pruning", "--task-option", "order"], "write --task-option name=value"),
        (["find", "node-pruning", "--drop-bad"], "--drop-bad is for prompts files"),
        (["find", "node-pruning", "--preset", "papr"], "did you mean 'paper'?"),
        (["find", "node-pruning", "--overwrite", "--resume"], "exclude each other"),
        (["find", "node-pruning", "--kinds", "heads"], "did you mean 'head'?"),
        (["find", "node-pruning", "--kl", "0"], "a KL budget of 0 nats"),
        (["find", "node-pruning", "--model", "./nowhere"], "'./nowhere' is not there"),
        (["find", "node-pruning", "--model", "{model}", "--dtype", "float23"], "did you mean 'float32'?"),
        (["find", "node-pruning", "--model", "{model}", "--device", "cpi"], "did you mean 'cpu'?"),
        (["score", "{model}", "--split", "tests"], "did you mean 'test'?"),
        (["check", "{prompts}"], "--model"),
        (["check", "nowhere.csv", "--model", "{model}"], "there is no file nowhere.csv"),
    ],
)
def test_wrong_use_is_one_message_with_its_cure(
    ask: Ask, files: Study, tmp_path: Path, arguments: list[str], told: str
) -> None:
    words = [word.format(model=files.model, prompts=files.prompts) for word in arguments]
    if words[0] == "find" and len(words) > 2 and words[2] != "--modle":
        defaults = {"--model": str(files.model), "--task": "ioi", "--out": str(tmp_path / "out")}
        words += [word for name, value in defaults.items() if name not in words for word in (name, value)]
    answer = ask(*words, "--json")
    assert answer.code == 2
    assert answer.json["error"]["exit_code"] == 2
    assert answer.err.startswith("error: ")
    assert told in answer.err
    assert told in answer.json["error"]["message"] + answer.json["error"]["cure"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["score", "show"])
def test_a_folder_without_a_circuit_is_bad_data(ask: Ask, tmp_path: Path, verb: str) -> None:
    answer = ask(verb, tmp_path, "--json")
    assert (answer.code, answer.json["error"]["kind"]) == (3, "DataError")
    (tmp_path / "circuit.json").write_text('{"schema_version": 1}')
    assert ask(verb, tmp_path).code == 3


def test_check_of_good_prompts(ask: Ask, files: Study) -> None:
    answer = ask("check", files.prompts, "--model", files.model, "--json")
    assert answer.code == 0
    assert (answer.json["read"], answer.json["kept"], answer.json["findings"]) == (72, 72, [])
    assert answer.json["splits"] == {"train": 32, "validation": 16, "test": 24}


def test_check_tells_every_fault_with_its_tokens_and_counts(ask: Ask, files: Study, tmp_path: Path) -> None:
    rows = files.rows()[:4]
    rows[1]["corrupt"] += " a"
    rows[2]["answers"] = rows[2]["wrong_answers"]
    lines = [json.dumps(row) for row in rows] + [json.dumps(rows[0])]  # the last row repeats the first: a warning
    (prompts := tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    answer = ask("check", prompts, "--model", files.model, "--json")
    assert answer.code == 3
    assert (answer.json["read"], answer.json["kept"], answer.json["dropped"]) == (5, 3, 2)
    found = [(each["row"].split()[1], each["code"], each["level"]) for each in answer.json["findings"]]
    assert found == [("2", "token-counts", "error"), ("3", "shared-answers", "error"), ("5", "duplicate", "warning")]
    assert answer.json["findings"][0]["corrupt_tokens"] == rows[1]["corrupt"].split()
    text = ask("check", prompts, "--model", files.model).out
    assert "kept 3 + dropped 2 = read 5" in text
    assert "|".join(rows[1]["clean"].split()) in text.replace(" ", "")
    assert all(each["cause"] in text and each["cure"] in text for each in answer.json["findings"])
    assert ask("check", prompts, "--model", files.model, "--drop-bad").code == 0


def test_an_unknown_family_is_refused_by_name(ask: Ask, files: Study, tmp_path: Path) -> None:
    config = json.loads((files.model / "config.json").read_text())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"model_type": "opt"}))
    answer = ask(
        *("find", "node-pruning", "--model", tmp_path / "model", "--task", files.prompts, "--out", tmp_path / "out")
    )
    assert answer.code == 5
    assert "opt" in answer.err and "llama" in answer.err


def stopped(number: signal.Signals) -> None:
    with stoppable():
        os.kill(os.getpid(), number)
        time.sleep(10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_either_signal_stops_a_verb_as_one_error(number: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGTERM)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job would ignore it
    try:
        with pytest.raises(errors.Interrupted):
            stopped(number)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert signal.getsignal(signal.SIGTERM) is before
