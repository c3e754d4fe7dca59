"""Models side by side, and the table of lm-evaluation-harness."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from subcircuit.distillation.harness import lm_eval_table
from subcircuit.distillation.standing import at_task, side_by_side
from subcircuit.errors import MissingExtra, UsageError
from subcircuit.ground_truth.planted import RandomTask
from subcircuit.subject import Subject
from tiny import tiny
from tiny_files import tokenizer

PROMPTS = [[5, 9, 3], [7, 8, 9, 10], [11, 12]]
TASK = """
task: parrots
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{said}}"
doc_to_choice: ["a", "b"]
doc_to_target: right
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def model(seed: int) -> Subject:
    return Subject(tiny("llama", seed=seed).model, tokenizer(), name=f"llama-{seed}")


def test_the_teacher_stands_beside_itself() -> None:
    teacher, student = model(0), model(1)
    pairs = RandomTask(teacher).pairs(teacher.tokenizer, 12)  # asks what the teacher says itself
    found = side_by_side({"teacher": teacher, "student": student}, teacher, PROMPTS, pairs=pairs, new_tokens=6)
    own, other = found["teacher"], found["student"]
    assert own.reading.kl.mean == pytest.approx(0, abs=1e-6) and other.reading.kl.mean > 0.1
    assert own.reading.perplexity == own.reading.teacher_perplexity < other.reading.perplexity
    assert own.writing.tokens > 0 and 0 < own.diversity <= 1
    assert own.task is not None and other.task is not None
    assert own.task.accuracy.mean == 1 > other.task.accuracy.mean
    assert own.parameters == sum(each.numel() for each in teacher.model.parameters())
    assert side_by_side({"it": teacher}, teacher, PROMPTS, new_tokens=6)["it"].task is None


def test_drawn_answers_are_right_as_often_as_they_are_likely() -> None:
    subject = model(0)
    pairs = RandomTask(subject).pairs(subject.tokenizer, 6)
    chance = subject.logits(pairs.clean).softmax(-1).gather(-1, pairs.right)[:, 0].tolist()
    found = at_task(subject, pairs, k=3, answers=4000, rows=2)
    assert found.drawn.mean == pytest.approx(math.fsum(chance) / 6, abs=0.01)
    assert found.pass_at_k.mean == pytest.approx(math.fsum(1 - (1 - p) ** 3 for p in chance) / 6, abs=0.02)
    with pytest.raises(UsageError, match="pass@9 from 8 answers"):
        at_task(subject, pairs, k=9, answers=8)


def test_without_the_extra_the_install_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as missing:
        lm_eval_table({"teacher": model(0)}, ["arc_easy"])
    assert missing.value.cure == 'pip install "subcircuit[lmeval]"'


def test_a_table_of_a_task_of_ones_own(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra lmeval")
    subjects = {"teacher": model(0), "student": model(1)}
    tokens, rows, right = subjects["teacher"].tokenizer, [], dict.fromkeys(subjects, 0)
    a, b = tokens.convert_tokens_to_ids(["a", "b"])
    for word in "cdefghijkl":
        rows.append(f'{{"said": "d {word}", "right": 0}}')
        ids = torch.tensor([tokens.convert_tokens_to_ids(["d", word])])
        for name, subject in subjects.items():
            logits = subject.model(ids).logits[0, -1]
            right[name] += int(logits[a] > logits[b])
    assert 0 < right["teacher"] != right["student"]
    (tmp_path / "parrots.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "parrots.yaml").write_text(TASK.replace("FILE", str(tmp_path / "parrots.jsonl")))
    table = lm_eval_table(subjects, ["parrots"], folder=tmp_path)
    assert {row.model: row.value for row in table} == {name: count / len(rows) for name, count in right.items()}
    assert all(row.task == "parrots" and row.metric == "acc" and row.error is not None for row in table)
    with pytest.raises(UsageError, match="lm-eval has no task 'parots'"):
        lm_eval_table(subjects, ["parots"], folder=tmp_path)
