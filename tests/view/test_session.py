"""Answers of a live model against hooks put on by hand, and against the Python they hand out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from live import Live, live, prompts_of
from subcircuit.errors import DataError, Interrupted, NumericalError, SubcircuitError
from subcircuit.intervention import ACTING, Reference, acting, masked_logits
from subcircuit.metrics import kl, logit_difference
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.view import Answer, Change, Question, Session

HEAD = Site(1, Kind.HEAD)


def by_hand(subject: Subject, text: str, edit: Any, site: Site = HEAD) -> Tensor:
    with torch.no_grad(), subject.editing({site: edit}):
        return subject.logits(prompts_of(subject, text))


def recorded(subject: Subject, text: str, site: Site = HEAD) -> Tensor:
    return subject.record(prompts_of(subject, text), [site])[1][site]


def logits_of(answer: Answer) -> Tensor:
    """Every logit, by token."""
    found = torch.full((1, len(answer.top)), torch.nan)
    for token in answer.top:
        found[0, token.id] = token.logit
    return found


def asked(study: Live, **changes: Any) -> tuple[Question, Answer]:
    question = study.question(top=100, **changes)
    return question, study.session.answer(question)


@pytest.mark.parametrize("amount", [0.0, 0.5, 2.0, -1.0])
@pytest.mark.parametrize("fill", ["zero", "corrupt", "prompt"])
def test_a_head_is_mixed_with_what_fills_it(study: Live, fill: str, amount: float) -> None:
    other = study.session.examples[1].clean
    question, answer = asked(study, other=other, changes=[Change(nodes=["1.head.2"], amount=amount, fill=fill)])
    donor = {"zero": None, "corrupt": question.corrupt, "prompt": other}[fill]
    value = recorded(study.subject, donor) if donor else torch.tensor(0.0)

    def edit(act: Tensor) -> Tensor:
        new = act.clone()
        new[:, :, 2] = amount * act[:, :, 2] + (1 - amount) * (value[:, :, 2] if donor else value)
        return new

    expected = by_hand(study.subject, question.clean, edit)
    found = logits_of(answer)
    assert (found - expected).abs().max() < 1e-5
    full = study.subject.logits(prompts_of(study.subject, question.clean)).detach()
    assert answer.kl == pytest.approx(float(kl(full, expected)), abs=1e-6) and answer.kl > 1e-3


def test_a_mean_is_over_prompts_of_the_train_split(study: Live) -> None:
    question, answer = asked(study, changes=[Change(nodes=["1.head.2"], fill="mean")])
    assert study.session.task is not None
    rows = study.session.task.pairs(study.subject.tokenizer, 32, seed=0, split="train").clean
    acts = study.subject.record(rows, [HEAD])[1][HEAD]
    mean = acts[rows.mask].mean(0)

    def edit(act: Tensor) -> Tensor:
        new = act.clone()
        new[:, :, 2] = mean[2]
        return new

    assert (logits_of(answer) - by_hand(study.subject, question.clean, edit)).abs().max() < 1e-5


def test_only_the_positions_that_are_named_change(study: Live) -> None:
    question, answer = asked(study, positions=[0, 3], changes=[Change(nodes=["0.head.1"])])

    def edit(act: Tensor) -> Tensor:
        new = act.clone()
        new[:, [0, 3], 1] = 0
        return new

    assert (logits_of(answer) - by_hand(study.subject, question.clean, edit, Site(0, Kind.HEAD))).abs().max() < 1e-5


def test_changes_act_one_after_another(study: Live) -> None:
    twice = [Change(nodes=["1.head.2"], amount=0.5), Change(nodes=["1.head.2", "0.head.1"], amount=0.5)]
    question, answer = asked(study, changes=twice)

    def edit(act: Tensor) -> Tensor:
        new = act.clone()
        new[:, :, 2] = 0.25 * act[:, :, 2]
        return new

    with study.subject.editing({Site(0, Kind.HEAD): lambda act: act * torch.tensor([1, 0.5, 1, 1])[:, None]}):
        expected = by_hand(study.subject, question.clean, edit)
    assert (logits_of(answer) - expected).abs().max() < 1e-5


def test_the_circuit_alone_is_its_own_mask(study: Live) -> None:
    question, answer = asked(study, start="circuit")
    clean, corrupt = (prompts_of(study.subject, text) for text in (question.clean, question.corrupt))
    mask = study.session.circuit.mask()
    expected = masked_logits(
        study.subject, clean, mask, Reference(study.subject, "corrupt", clean, corrupt, acting(mask))
    )
    assert (logits_of(answer) - expected).abs().max() < 1e-5
    right, wrong = (
        torch.tensor([study.subject.tokenizer.convert_tokens_to_ids([answers[0].strip()])])
        for answers in (question.answers, question.wrong_answers)
    )
    assert answer.changed.logit_difference == pytest.approx(float(logit_difference(expected, right, wrong)), abs=1e-5)


def test_untouched_it_says_what_the_model_says(study: Live) -> None:
    question, answer = asked(study)
    with torch.no_grad():
        full = study.subject.logits(prompts_of(study.subject, question.clean))
        other = study.subject.logits(prompts_of(study.subject, question.corrupt))
    assert logits_of(answer).equal(full) and answer.kl == 0 and answer.full == answer.changed
    assert [token.id for token in answer.top] == full[0].argsort(descending=True).tolist()[: len(answer.top)]
    right, wrong = (study.subject.tokenizer(a[0]).input_ids for a in (question.answers, question.wrong_answers))
    assert answer.counterfactual is not None and answer.full.logit_difference is not None
    assert answer.counterfactual.logit_difference == pytest.approx(float(other[0, right] - other[0, wrong]), abs=1e-5)
    assert len(answer.tokens) == len(answer.corrupt_tokens) == 7 and answer.at == 6


QUESTIONS: list[dict[str, Any]] = [
    {},
    {"changes": [{"nodes": ["1.head.2", "1.mlp", "0.head.0"], "amount": -0.5, "fill": "corrupt"}]},
    {"changes": [{"nodes": ["0.neuron.3", "1.neuron.5"], "fill": "mean"}, {"nodes": ["1.attn"], "fill": "prompt"}]},
    {"start": "circuit", "positions": [2, 6], "changes": [{"nodes": ["1.head.2"], "amount": 0.25, "fill": "zero"}]},
    {"answers": [], "changes": [{"nodes": ["1.q.0", "0.kv.1", "0.block"], "amount": 1.5}]},
]


@pytest.mark.parametrize("changes", QUESTIONS)
def test_the_python_it_hands_out_gives_the_same_numbers(study: Live, changes: dict[str, Any]) -> None:
    question = study.question(**{"other": study.session.examples[2].clean, **changes})
    answer = study.session.answer(question)
    told: dict[str, Any] = {}
    exec(answer.python, told)
    for token in answer.top:
        assert float(told["logits"][0, token.id]) == pytest.approx(token.logit, abs=1e-5)
    assert float(kl(told["full"], told["logits"])) == pytest.approx(answer.kl, abs=1e-5)
    assert ("difference" in told) == bool(question.answers)
    if question.answers:
        assert float(told["difference"]) == pytest.approx(answer.changed.logit_difference, abs=1e-5)


def test_the_python_of_a_mean_reference_circuit(tmp_path: Path) -> None:
    own = live(tmp_path, reference="mean", family="gpt2")
    answer = own.session.answer(own.question(start="circuit", changes=[Change(nodes=["1.head.2"], amount=2)]))
    told: dict[str, Any] = {}
    exec(answer.python, told)
    assert float(told["difference"]) == pytest.approx(answer.changed.logit_difference, abs=1e-5)


def test_every_kind_that_can_be_changed_changes_something(study: Live) -> None:
    about = study.session.about
    assert set(about.units) == {kind for line in ACTING.values() for kind in line}
    for kind, units in about.units.items():
        names = [f"1.{kind}" if units == 1 else f"1.{kind}.{unit}" for unit in range(units)]
        assert asked(study, changes=[Change(nodes=names, fill="corrupt")])[1].kl > 0, kind


def test_what_stays_the_same_is_computed_once(study: Live) -> None:
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    question = study.question(changes=[Change(nodes=["0.head.1", "1.mlp"], amount=0.3, fill="corrupt")])
    handle = study.subject.model.register_forward_pre_hook(count)
    try:
        session = Session(study.subject, study.session.circuit, study.session.task)
        session.answer(question)
        assert passes == 4  # clean, counterfactual, its values, changed
        for amount in (0.2, 0.1, 0.0):
            (change,) = question.changes
            session.answer(question.model_copy(update={"changes": [change.model_copy(update={"amount": amount})]}))
        assert passes == 7
    finally:
        handle.remove()


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"clean": " "}, "the prompt is empty", "type a prompt"),
    ({"clean": "a " * 3000}, "has 3000 tokens, and", "shorten"),
    ({"corrupt": "a b c"}, "the prompt has 7 tokens, the counterfactual 3", "as many tokens"),
    ({"answers": [" a b"]}, "the answer ' a b' is 2 tokens here", "one token"),
    ({"answers": [" a"], "wrong_answers": [" a"]}, "both a right and a wrong answer", "one side"),
    ({"changes": [{"nodes": ["1.head.9"]}]}, "there is no node 1.head.9: 1.head has 4 units", "the last is 1.head.3"),
    ({"changes": [{"nodes": ["7.head.0"]}]}, "there is no node 7.head.0", "layer from 0"),
    ({"changes": [{"nodes": ["nonsense"]}]}, "'nonsense' is not a", "LAYER.KIND"),
    ({"changes": [{"nodes": ["1.haed.0"]}]}, "did you mean 'head'", ""),
    ({"changes": [{"nodes": ["1.resid"]}]}, "'resid' cannot be changed", "head"),
    ({"changes": [{"nodes": ["1.mlp"], "fill": "prompt"}]}, "the other prompt is empty", "type"),
    ({"changes": [{"nodes": ["1.mlp"], "fill": "prompt"}], "other": "a"}, "the other prompt 1", "as many tokens"),
    ({"changes": [{"nodes": ["1.mlp"], "fill": "corrupt"}], "corrupt": ""}, "no counterfactual", "type one"),
    ({"positions": [7], "changes": [{"nodes": ["1.mlp"]}]}, "there is no position 7", "0 to 6"),
]


@pytest.mark.parametrize(
    ("changes", "said", "cure"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_it_refuses_what_makes_no_sense(study: Live, changes: dict[str, Any], said: str, cure: str) -> None:
    with pytest.raises(SubcircuitError) as refused:
        study.session.answer(study.question(**changes))
    assert said in refused.value.message
    assert cure in str(refused.value)
    assert study.session.answer(study.question()).kl == 0  # nothing is left behind


def test_infinity_is_no_answer(study: Live) -> None:
    doubled = [Change(nodes=["0.block", "1.block"], amount=100)] * 50
    with pytest.raises(NumericalError, match="infinite"):
        study.session.answer(study.question(changes=doubled))


def test_it_stops_at_the_next_layer(study: Live) -> None:
    looks: list[int] = []

    def stopped() -> bool:
        looks.append(1)
        return len(looks) > 2

    question = study.question(clean=study.session.examples[5].clean, corrupt="")
    with pytest.raises(Interrupted):
        study.session.answer(question, stopped)
    assert len(looks) == 3
    assert study.session.answer(question).kl == 0


def test_without_its_task_it_answers_all_the_same(study: Live) -> None:
    session = Session(study.subject, study.session.circuit, None, absent="there is no file prompts.jsonl")
    assert session.about.no_examples == "there is no file prompts.jsonl" and "mean" not in session.about.fills
    assert session.answer(Question(clean="a b c", changes=[Change(nodes=["1.mlp"])])).kl > 0
    with pytest.raises(DataError, match="no prompts to take a mean over: there is no file"):
        session.answer(Question(clean="a b c", changes=[Change(nodes=["1.mlp"], fill="mean")]))
