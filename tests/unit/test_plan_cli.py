"""`subcircuit plan`, and the look at memory that `find` begins with."""

import json
from pathlib import Path

import pytest

from commands import Ask
from subcircuit.cli._planned import told_time
from tiny_files import tokenizer
from tiny_folder import Study

FEW = ("--steps", "2", "--pairs", "8", "--validation", "4", "--batch", "4", "--kl", "9")


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of 70 billion weights: its configuration and a tokenizer."""
    folder = tmp_path_factory.mktemp("huge")
    sizes = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 64, **sizes}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer().save_pretrained(folder)
    return folder


def test_a_plan_tells_memory_disk_and_time(ask: Ask, files: Study) -> None:
    given = ["plan", "find", "node-pruning", "--model", files.model, "--task", files.prompts, *FEW]
    answer = ask(*given, "--json")
    assert answer.code == 0, answer.err
    found = answer.json["plan"]
    assert found["fits"] and found["measured"] and found["options"] == []
    assert sum(found["parts"].values()) == pytest.approx(found["peak"], abs=10)
    assert 0 < found["seconds"][0] <= found["seconds"][1]
    text = ask(*given, "--no-measure").out
    assert "memory at its dearest moment" in text and "from assumed speeds, not measured" in text and "it fits" in text


def test_a_plan_that_does_not_fit_names_what_would(ask: Ask, files: Study) -> None:
    given = ["plan", "find", "attribution-patching", "--model", files.model, "--task", files.prompts, "--quiet"]
    answer = ask(*given, "--memory", "0.1", "--json")
    assert answer.code == 4
    assert answer.json["error"]["kind"] == "ResourceError" and "0.1 GB are free" in answer.json["error"]["message"]
    assert ask(*given, "--memory", "-1").code == 2


def test_find_refuses_what_does_not_fit_before_it_reads_weights(
    ask: Ask, files: Study, huge: Path, tmp_path: Path
) -> None:
    given = ["find", "node-pruning", "--model", huge, "--task", files.prompts, "--out", tmp_path / "out", *FEW]
    answer = ask(*given, "--json")
    assert answer.code == 4
    assert (
        "GB of memory" in answer.json["error"]["message"]
        and "--yes begins all the same" in answer.json["error"]["cure"]
    )
    assert not (tmp_path / "out").exists()
    begun = ask(*given, "--yes")
    assert begun.code == 3 and "weights" in begun.err  # it went on, to weights that are not there


def test_a_plan_of_a_score(ask: Ask, files: Study, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert (
        ask("find", "random", "--model", files.model, "--task", files.prompts, "--out", out, "--size", "0.5").code == 0
    )
    answer = ask("plan", "score", out, "--pairs", "8", "--json")
    assert answer.code == 0 and answer.json["plan"]["what"] == "score" and answer.json["plan"]["measured"]
    assert ask("plan", "score", out, "--pairs", "8", "--memory", "0.1").code == 4


def test_times_are_told_in_units_that_suit_them() -> None:
    assert told_time((0.5, 100)) == "0.5 to 1e+02 seconds"
    assert told_time((60, 600)) == "1 to 10 minutes"
    assert told_time((3600, 36000)) == "1 to 10 hours"
    assert told_time((86400, 1e6)) == "1 to 12 days"
