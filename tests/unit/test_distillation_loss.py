"""The loss of distillation at single tokens: against formulas written out, and against finite differences."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from subcircuit.distillation.losses import Loss, entropy, forward_kl, gates, terms
from subcircuit.errors import UnknownName, UsageError

VOCAB, TOKENS = 11, 5
TARGETS = ("tail", "topk", "full")


def logits(seed: int) -> Tensor:
    return torch.randn(TOKENS, VOCAB, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


def drawn() -> Tensor:
    return torch.randint(VOCAB, (TOKENS,), generator=torch.Generator().manual_seed(9))


def total(loss: Loss, student: Tensor, teacher: Tensor, gate: Tensor, old: Tensor | None = None) -> Tensor:
    found = terms(loss, student, teacher, drawn(), old, gate)
    return (found.main + found.forward).sum()


ONES = torch.ones(TOKENS, dtype=torch.float64)


def test_by_hand() -> None:
    # the teacher: 1/2, 1/4, 1/8, 1/8; the student: uniform; k = 2
    teacher = torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=torch.float64).log()
    student = torch.full((1, 4), 0.25, dtype=torch.float64).log()
    assert entropy(teacher).item() == pytest.approx(1.75 * math.log(2))
    full = 0.5 * math.log(2) + 0.25 * math.log(1) + 0.25 * math.log(0.5)
    assert forward_kl(student, teacher, "full", 2).item() == pytest.approx(full)
    assert forward_kl(student, teacher, "tail", 2).item() == pytest.approx(full)  # within the tail both are uniform
    renormalised = 2 / 3 * math.log(2 / 3 / 0.25) + 1 / 3 * math.log(1 / 3 / 0.25)
    assert forward_kl(student, teacher, "topk", 2).item() == pytest.approx(renormalised)
    loss = Loss(tau=1.0, top_k=2, target="topk", alpha=3.0)
    found = terms(
        loss, student, teacher, torch.tensor([2]), torch.tensor([0.125], dtype=torch.float64).log(), torch.ones(1)
    )
    # the ratio is 2, clipped to 1.2; the advantage log(1/8) - log(1/8) = 0
    assert found.main.item() == pytest.approx(0.0) and found.forward.item() == pytest.approx(3 * renormalised)


@pytest.mark.parametrize(
    ("old", "expected"),
    [  # ratio, advantage -> -min(r A, clip(r) A), at a student's probability of 1/4 and a teacher's of 1/2
        (0.25, -math.log(2)),  # r = 1
        (0.125, -1.2 * math.log(4)),  # r = 2, A > 0: clipped
        (0.5, -0.5 * 0.0),  # A = 0
        (1.0, 0.8 * math.log(2)),  # r = 1/4, A < 0: clipped to 0.8
    ],
)
def test_the_clipped_ratio(old: float, expected: float) -> None:
    teacher = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    student = torch.tensor([[0.25, 0.75]], dtype=torch.float64).log()
    found = terms(
        Loss(), student, teacher, torch.tensor([0]), torch.tensor([old], dtype=torch.float64).log(), torch.zeros(1)
    )
    assert found.main.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    "options",
    [
        *({"target": target, "top_k": 3} for target in TARGETS),
        {"reverse": "full", "target": "tail"},
        {"objective": "forward-kl"},
        {"objective": "supervised"},
        *({"objective": "jsd", "beta": beta} for beta in (0.0, 0.3, 1.0)),
    ],
    ids=str,
)
def test_gradients_are_those_of_finite_differences(options: dict[str, Any]) -> None:
    loss, teacher = Loss(**options), logits(1)
    student = logits(0).requires_grad_()
    old = logits(2).log_softmax(-1).gather(-1, drawn()[:, None])[:, 0]
    assert torch.autograd.gradcheck(lambda x: total(loss, x, teacher, ONES, old), student)


@pytest.mark.parametrize("target", TARGETS)
def test_a_student_that_is_the_teacher(target: Any) -> None:
    student = logits(0).requires_grad_()
    (gradient,) = torch.autograd.grad(total(Loss(target=target, top_k=3), student, logits(0), ONES), student)
    if target != "topk":
        assert gradient.abs().max() < 1e-12
        return
    p = logits(0).softmax(-1)  # the renormalised target is not the teacher: what is left is p - q
    best, places = p.topk(3)
    q = torch.zeros_like(p).scatter(-1, places, best / best.sum(-1, keepdim=True))
    assert torch.allclose(gradient, p - q, atol=1e-12) and gradient.abs().max() > 0.01


def test_an_infinite_threshold_is_plain_on_policy_distillation() -> None:
    teacher, found = logits(1), []
    gate = gates(Loss(tau=math.inf), entropy(teacher))
    assert not gate.any()
    for loss in (Loss(tau=math.inf), Loss(alpha=0.0)):
        student = logits(0).requires_grad_()
        value = total(loss, student, teacher, gate if loss.alpha else ONES)
        found.append((value, *torch.autograd.grad(value, student)))
    new, judge = (each.log_softmax(-1).gather(-1, drawn()[:, None])[:, 0] for each in (logits(0), teacher))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert torch.allclose(found[0][0], -(judge - new).sum())


def test_with_every_gate_open_and_all_tokens_it_is_on_policy_plus_full_forward_kl() -> None:
    student, teacher = logits(0), logits(1)
    gate = gates(Loss(tau=-1), entropy(teacher))
    plain = total(Loss(alpha=0), student, teacher, gate)
    kl = (teacher.softmax(-1) * (teacher.log_softmax(-1) - student.log_softmax(-1))).sum()
    for target in ("tail", "topk"):
        assert torch.allclose(total(Loss(tau=-1, target=target, top_k=VOCAB), student, teacher, gate), plain + kl)


def test_a_planted_token_of_high_entropy_gates_itself() -> None:
    teacher = torch.zeros(TOKENS, VOCAB)
    teacher[:, 4] = 20.0
    teacher[3] = 0.0  # uniform: log 11 nats
    entropies = entropy(teacher)
    assert entropies[3].item() == pytest.approx(math.log(VOCAB)) and entropies[[0, 1, 2, 4]].max() < 1e-5
    only = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0])
    assert gates(Loss(), entropies).equal(only)
    assert gates(Loss(gate="quantile", quantile=0.8), entropies).equal(only)
    assert torch.allclose(gates(Loss(gate="soft", softness=0.01), entropies), only, atol=1e-6)
    by_hand = gates(Loss(gate="soft", tau=0.8, softness=0.2), torch.tensor([0.8, 1.0, 0.4]))
    assert torch.allclose(by_hand, torch.tensor([0.5, 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(2))]))
    assert gates(Loss(gate="none"), entropies).equal(torch.ones(TOKENS))
    assert not gates(Loss(objective="jsd"), entropies).any()
    found = terms(Loss(), torch.randn(TOKENS, VOCAB), teacher, drawn(), None, gates(Loss(), entropies))
    assert found.forward[3] > 0 and not found.forward[[0, 1, 2, 4]].any()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"gate": "hrad"}, UnknownName),
        ({"target": "tails"}, UnknownName),
        ({"quantile": 1.5}, UsageError),
        ({"top_k": 0}, UsageError),
        ({"tau": math.nan}, UsageError),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Loss(**options)
