"""Distillation as a whole, on tiny models: what is learned, resumed and refused."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import subcircuit
from commands import Ask
from cut_models import Ablated, deep, written
from subcircuit.distillation import Distillation, Loss, read_prompts
from subcircuit.distillation.processes import Processes
from subcircuit.distillation.reading import read, unembed
from subcircuit.distillation.speaking import Ending, Written
from subcircuit.distillation.update import CHUNK, Judge, Updater
from subcircuit.distillation.writing import Writer, write
from subcircuit.errors import DataError, NumericalError, UsageError
from subcircuit.extraction.forms import as_compact
from subcircuit.subject import Subject
from tiny import tiny
from tiny_files import save, tokenizer

PROMPTS = [[5, 9, 3], [7, 8, 9, 10], [11, 12], [6, 20, 30, 40, 50], [13, 14, 15], [40, 41]]
SHORT: dict[str, Any] = {"steps": 4, "batch": 4, "micro": 2, "new_tokens": 6, "lr": 1e-3, "save_every": 2}


def model(family: str = "llama", seed: int = 0) -> Subject:
    return Subject(tiny(family, seed=seed).model, tokenizer(), name=f"{family}-{seed}", revision=str(seed))


def weights(subject: Subject) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in subject.model.named_parameters()}


def updater(student: Subject, teacher: Subject, loss: Loss, micro: int) -> Updater:
    own, ending = student.model.requires_grad_(True), Ending.of(student.model, teacher.model)
    optimizer = torch.optim.AdamW(own.parameters())
    processes = Processes()
    return Updater(own, Judge(teacher.model, ending), loss, optimizer, micro=micro, max_norm=1.0, processes=processes)


def text(subject: Subject) -> Written:
    return write(subject.model, PROMPTS, (2,), new_tokens=7, seed=3)


@pytest.mark.parametrize("norm", ["all", "gated"])
@pytest.mark.parametrize("gate", ["hard", "quantile"])
def test_the_gradient_does_not_depend_on_micro_batches(norm: Any, gate: Any) -> None:
    found = []
    for micro in (1, 2, 6):
        student, teacher = (model("gpt2", seed) for seed in (0, 1))
        for each in (student, teacher):
            each.model.double()
        learn = updater(student, teacher, Loss(norm=norm, gate=gate, tau=2.5), micro)
        facts = learn.gradient(text(student))
        found.append((facts, [each.grad for each in learn.weights if each.grad is not None]))
    assert 0 < found[0][0]["gate"] < 1
    for facts, gradients in found[1:]:
        assert facts["loss"] == pytest.approx(found[0][0]["loss"], rel=1e-12)
        for one, other in zip(found[0][1], gradients, strict=True):
            assert torch.allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("lag1", [False, True])
def test_gate_and_forward_kl_act_on_the_same_position_unless_asked(lag1: bool) -> None:
    """Against the definition, from the logits of a whole pass."""
    student, teacher = model(seed=0), model(seed=1)
    loss = Loss(tau=2.5, target="full", lag1=lag1)
    said = text(student)
    facts = updater(student, teacher, loss, 6).gradient(said)
    with torch.no_grad():
        own, judge = (each.model(said.ids, attention_mask=said.mask.long()).logits for each in (student, teacher))
    p, q = own.log_softmax(-1), judge.log_softmax(-1)
    entropy, kl = -(q.exp() * q).sum(-1), (q.exp() * (q - p)).sum(-1)
    expected, count = 0.0, 0
    for row, place in said.response.nonzero().tolist():
        token = said.ids[row, place]
        expected -= float(q[row, place - 1, token] - p[row, place - 1, token])
        expected += float((entropy[row, place - 1] > 2.5) * kl[row, place if lag1 else place - 1])
        count += 1
    assert facts["loss"] == pytest.approx(expected / count, rel=1e-4) and facts["tokens"] == count


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "qwen3"])
def test_hidden_states_unembed_to_the_models_own_logits(family: str) -> None:
    subject = model(family)
    said = text(subject)
    with torch.no_grad():
        whole = subject.model(said.ids, attention_mask=said.mask.long()).logits[:, :-1][said.response[:, 1:]]
        assert torch.allclose(unembed(subject.model, read(subject.model, said).states), whole.float(), atol=1e-5)


def test_an_interrupted_run_ends_as_it_would_have(tmp_path: Path) -> None:
    settings = Distillation(loss=Loss(tau=2.5), updates=2, **SHORT)
    whole = model(seed=0)
    settings.distil(whole, model(seed=1), PROMPTS, tmp_path / "whole")

    def stop(phase: str, done: int, total: int, **facts: float) -> None:
        if done == 3:  # after a checkpoint, and a step that is lost
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        settings.distil(model(seed=0), model(seed=1), PROMPTS, tmp_path / "cut", progress=stop)
    torch.manual_seed(99)  # nothing depends on the global generator
    again = model(seed=0)
    found = settings.distil(again, model(seed=1), PROMPTS, tmp_path / "cut", resume=True)
    assert len(found.history) == 8
    assert all(torch.equal(each, weights(again)[name]) for name, each in weights(whole).items())
    assert not all(torch.equal(each, weights(again)[name]) for name, each in weights(model(seed=0)).items())
    one, other = (json.loads((tmp_path / name / "distillation.json").read_text()) for name in ("whole", "cut"))
    assert one == other
    with pytest.raises(UsageError, match="is finished"):
        settings.distil(model(seed=0), model(seed=1), PROMPTS, tmp_path / "cut", resume=True)


def test_other_settings_do_not_resume(tmp_path: Path) -> None:
    def stop(phase: str, done: int, total: int, **facts: float) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Distillation(**SHORT).distil(model(seed=0), model(seed=1), PROMPTS, tmp_path / "run", progress=stop)
    with pytest.raises(UsageError, match=r"other settings \(tau: 0.8 -> 1.5\)"):
        Distillation(loss=Loss(tau=1.5), **SHORT).distil(
            model(seed=0), model(seed=1), PROMPTS, tmp_path / "run", resume=True
        )
    with pytest.raises(UsageError, match="is not empty"):
        Distillation(**SHORT).distil(model(seed=0), model(seed=1), PROMPTS, tmp_path / "run")


def test_an_extracted_student_learns_and_loads(tmp_path: Path) -> None:
    ablated = Ablated(deep("llama"), "mean")
    teacher = ablated.subject
    written(as_compact(teacher, ablated.gates, ablated.values), teacher, tmp_path / "student")
    student = subcircuit.load(tmp_path / "student")
    settings = Distillation(loss=Loss(reverse="full"), steps=30, batch=6, new_tokens=8, lr=5e-3)
    found = settings.distil(student, teacher, PROMPTS, tmp_path / "out")
    first, last = ([facts["reverse KL"] for facts in part] for part in (found.history[:5], found.history[-5:]))
    assert sum(last) < 0.7 * sum(first)
    assert not (tmp_path / "out" / "README.md").exists()  # for the student has none
    again = subcircuit.load(tmp_path / "out")
    ids = torch.tensor([PROMPTS[3]])
    with torch.no_grad():
        assert torch.equal(again.model(ids).logits, student.model(ids).logits)


def test_the_teachers_end_stands_for_the_students() -> None:
    student, teacher = model(seed=0), model(seed=1)
    assert Ending.of(student.model, teacher.model) == Ending((2,))
    teacher.model.generation_config.eos_token_id = 3
    ending = Ending.of(student.model, teacher.model)
    assert ending == Ending((2,), (2, 3))
    ids, responses = torch.tensor([[5, 2, 7, 2]]), torch.tensor([[False, False, True, True]])
    assert ending.for_teacher(ids, responses).tolist() == [[5, 2, 7, 3]]  # not the one in the prompt
    said = Written(torch.tensor([[3, 5, 7, 3]]), torch.ones(1, 4, dtype=torch.bool), responses)
    assert ending.from_teacher(said).ids.tolist() == [[3, 5, 7, 2]]
    assert ending.as_student(torch.arange(5.0)).tolist() == [0.0, 1.0, 3.0, 2.0, 4.0]
    said = Written(ids, torch.ones(1, 4, dtype=torch.bool), responses)
    found = updater(student, teacher, Loss(alpha=0), 1).gradient(said)
    with torch.no_grad():  # the teacher is asked for its own end, after the same words
        q = teacher.model(ids).logits.log_softmax(-1)
    assert found["teacher log-probability"] == pytest.approx(float(q[0, 1, 7] + q[0, 2, 3]) / 2, rel=1e-5)


def test_what_is_written_is_a_function_of_the_seed() -> None:
    subject = model()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, other = write(subject.model, PROMPTS, (2,), new_tokens=7, seed=3), text(subject)
    assert one.ids.equal(other.ids) and torch.get_rng_state().equal(before)
    assert not write(subject.model, PROMPTS, (2,), new_tokens=7, seed=4).ids.equal(one.ids)
    for row, prompt in enumerate(PROMPTS):
        answer = one.ids[row][one.response[row]].tolist()
        assert one.ids[row, : len(prompt)].tolist() == prompt and 1 <= len(answer) <= 7
        assert 2 not in answer[:-1] and (len(answer) == 7 or answer[-1] == 2)


def sure(token: int) -> Subject:
    """A model that says one token, whatever it reads."""
    subject = model("gpt2", seed=1)
    with torch.no_grad():
        norm = subject.model.transformer.ln_f
        norm.weight.zero_()
        norm.bias.copy_(100 * torch.nn.functional.normalize(subject.model.lm_head.weight[token], dim=0))
        subject.model.lm_head.weight[token] *= 3
    return subject


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_teacher_writes_its_share_of_the_batches(share: float) -> None:
    loss = Loss(objective="jsd", beta=0.5)
    settings = Distillation(loss=loss, on_policy=share, steps=40, batch=2, new_tokens=3, lr=0.0)
    found = settings.distil(model("gpt2"), sure(9), PROMPTS)
    theirs = [facts["teacher log-probability"] > -1e-3 for facts in found.history]  # what only the teacher would say
    assert sum(theirs) == {0.0: 40, 1.0: 0}.get(share, sum(theirs)) and (share != 0.5 or 10 < sum(theirs) < 30)


def test_supervised_learning_is_the_likelihood_of_what_the_teacher_wrote() -> None:
    student, teacher = model(seed=0), model(seed=1)
    settings = Distillation(loss=Loss(objective="supervised"), on_policy=0.0, steps=1, batch=6, new_tokens=7)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))  # of the first epoch of seed 0
    said = write(teacher.model, [PROMPTS[row] for row in order], (2,), new_tokens=7, seed=0)
    with torch.no_grad():
        logits = student.model(said.ids, attention_mask=said.mask.long()).logits.log_softmax(-1)
    places = said.response.nonzero().tolist()
    expected = -sum(float(logits[row, place - 1, said.ids[row, place]]) for row, place in places) / len(places)
    assert settings.distil(student, teacher, PROMPTS).history[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_no_more_than_a_chunk_of_logits_is_ever_there() -> None:
    student, teacher = model("gpt2", 0), model("gpt2", 1)
    seen: list[int] = []
    for each in (student, teacher):
        each.model.lm_head.register_forward_hook(lambda _, args, out: seen.append(out.numel() // out.shape[-1]))
    said = write(student.model, [[5, 6]] * 40, (), new_tokens=10, seed=0)
    assert said.tokens == 400 and said.truncated == 40
    seen.clear()
    updater(student, teacher, Loss(), 40).gradient(said)
    assert max(seen) == CHUNK and sum(seen) == 400 * 5  # entropies, then both models forward and again backward


def test_refusals(tmp_path: Path) -> None:
    settings = Distillation(**SHORT)
    with pytest.raises(DataError, match="prompt 1 has 60 tokens; there is room for 1 to 58"):
        settings.distil(model(), model(seed=1), [[5], [5] * 60])
    other = model(seed=1)
    swapped = tokenizer()
    swapped.add_tokens(["new"])
    with pytest.raises(DataError, match=r"different vocabularies: 1 tokens differ, the first 'new'"):
        settings.distil(model(), Subject(other.model, swapped), PROMPTS)
    with torch.no_grad():
        other.model.lm_head.weight[7] = torch.nan
    with pytest.raises(NumericalError, match="the teacher's answer to row 0 of this batch is not a number"):
        settings.distil(model(), other, PROMPTS)
    with pytest.raises(NumericalError, match="what the teacher says to row 0 of a batch is not a number"):
        Distillation(loss=Loss(objective="forward-kl"), on_policy=0.0, **SHORT).distil(model(), other, PROMPTS)
    with pytest.raises(UsageError, match="a batch of 4 does not divide into 3 updates"):
        Distillation(updates=3, **SHORT)
    with pytest.raises(UsageError, match="add --on-policy 0"):
        Distillation(loss=Loss(objective="supervised"), on_policy=1.0)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a b c"}\n{"text": "a"}\n')
    with pytest.raises(DataError, match=r"line 2 has no prompt"):
        read_prompts(prompts, tokenizer(), 10)
    prompts.write_text('{"prompt": "a b c"}\n')
    with pytest.raises(DataError, match=r"line 1: a prompt of 3 tokens"):
        read_prompts(prompts, tokenizer(), 2)


def test_out_of_memory_halves_the_micro_batch(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    student, teacher = model(seed=0), model(seed=1)
    learn = updater(student, teacher, Loss(), 4)
    whole = learn.judge.read

    def small(part: Written) -> Any:
        if len(part) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return whole(part)

    monkeypatch.setattr(learn.judge, "read", small)
    facts = learn(text(student))
    assert learn.micro == 2 and "going on with micro-batches of 2" in caplog.text
    plain = updater(model(seed=0), teacher, Loss(), 2)(text(model(seed=0)))
    assert facts["loss"] == plain["loss"]


def test_out_of_memory_halves_what_is_written_at_a_time(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    subject, writer = model(), Writer(new_tokens=5)
    whole = type(subject.model).generate

    def small(self: Any, *args: Any, **options: Any) -> Any:
        if len(options["input_ids"]) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return whole(self, *args, **options)

    monkeypatch.setattr(type(subject.model), "generate", small)
    said = writer(subject.model, PROMPTS, (2,), seed=3)
    assert writer.rows == 1 and "going on with 1 texts written at a time" in caplog.text  # 6 -> 3 -> 1
    assert [said.ids[row, : len(prompt)].tolist() for row, prompt in enumerate(PROMPTS)] == PROMPTS
    assert said.response.any(1).all()
    again = Writer(new_tokens=5, rows=1)(subject.model, PROMPTS, (2,), seed=3)
    assert said.ids.equal(again.ids)


def test_what_is_written_follows_the_models_own_probabilities() -> None:
    """Whatever its folder says of generation."""
    subject = model()
    plain = text(subject)
    mine = subject.model.generation_config
    mine.repetition_penalty, mine.suppress_tokens = 9.0, [plain.ids[0, 3].item()]
    assert text(subject).ids.equal(plain.ids) and subject.model.generation_config is mine


def test_the_command(ask: Ask, tmp_path: Path) -> None:
    student, teacher = save(tiny("llama", seed=0), tmp_path / "s"), save(tiny("llama", seed=1), tmp_path / "t")
    (tmp_path / "prompts.txt").write_text("a b c\nd e\nf g h\n")
    words = ["distill", "--student", student, "--teacher", teacher, "--prompts", tmp_path / "prompts.txt"]
    some = ["--steps", 2, "--set", "batch=2", "--set", "new-tokens=5", "--set", "gate=none", "--quiet"]
    answer = ask(*words, "--out", tmp_path / "out", *some, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["settings"]["loss"]["gate"] == "none" and answer.json["first"]["gate"] == 1.0
    assert subcircuit.load(tmp_path / "out").family_name == "llama"
    again = ask(*words, "--out", tmp_path / "out", *some)
    assert again.code == 2 and "is not empty" in again.err
    wrong = ask(*words, "--out", tmp_path / "new", "--set", "gaet=none")
    assert wrong.code == 2 and "no setting 'gaet'; did you mean 'gate'?" in wrong.err


SHARE = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from test_distillation import *
student, teacher = model("gpt2", 0), model("gpt2", 1)
learn = updater(student, teacher, Loss(gate="quantile", norm="gated"), 2)
said, at = text(student), learn.processes.rank
facts = learn.gradient(said[slice(0, 2)] if at == 0 else said[slice(2, 6)])
for each in learn.weights:
    each.grad = learn.processes.sum(each.grad)
if at == 0:
    torch.save((facts, [each.grad for each in learn.weights]), sys.argv[2])
learn.processes.wait()
"""


def test_two_processes_find_the_gradient_of_one(tmp_path: Path) -> None:
    """As `accelerate launch` starts them, each with rows of its own, and not as many of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    here, out = str(Path(__file__).parent), str(tmp_path / "found")
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    path = os.pathsep.join([here, str(Path(here).parent)])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SHARE, here, out],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [each.communicate(timeout=300)[1] for each in started]
    assert [each.returncode for each in started] == [0, 0], told
    facts, gradients = torch.load(out)
    student = model("gpt2", 0)
    learn = updater(student, model("gpt2", 1), Loss(gate="quantile", norm="gated"), 2)
    whole = learn.gradient(text(student))
    assert facts["tokens"] == whole["tokens"] and facts["loss"] == pytest.approx(whole["loss"], rel=1e-4)
    for one, each in zip(gradients, learn.weights, strict=True):
        assert each.grad is not None and torch.allclose(one, each.grad, rtol=1e-3, atol=1e-4)
