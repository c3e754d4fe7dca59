"""What is measured of a student, against enumeration and whole passes."""

import math
from itertools import combinations

import pytest
import torch

from subcircuit.distillation.measures import by_text, closeness, diversity, paired, pass_at_k
from subcircuit.distillation.speaking import Written
from subcircuit.errors import UsageError
from tiny import tiny


def text() -> Written:
    ids = torch.randint(3, 64, (5, 9), generator=torch.Generator().manual_seed(0))
    places = torch.arange(9)
    mask = places < torch.tensor([9, 7, 9, 8, 6])[:, None]
    return Written(ids, mask, mask & (places >= 3))


def test_against_whole_passes() -> None:
    student, teacher, said = tiny("llama", seed=0).model, tiny("llama", seed=1).model, text()
    found = closeness(student, teacher, said, tau=2.5, rows=2)
    with torch.no_grad():
        p, q = (each(said.ids, attention_mask=said.mask.long()).logits.log_softmax(-1) for each in (student, teacher))
    kls, entropies, chosen = [], [], []
    for row, place in said.response.nonzero().tolist():
        one, other = p[row, place - 1], q[row, place - 1]
        kls.append(float((other.exp() * (other - one)).sum()))
        entropies.append(float(-(other.exp() * other).sum()))
        chosen.append(float(one[said.ids[row, place]]))
    high = [kl for kl, entropy in zip(kls, entropies, strict=True) if entropy > 2.5]
    assert found.tokens == len(kls) == 24 and 0 < len(high) < len(kls)
    assert found.kl.mean == pytest.approx(sum(kls) / 24, rel=1e-4) and found.kl.low < found.kl.mean < found.kl.high
    assert found.kl_high == pytest.approx(sum(high) / len(high), rel=1e-4) and found.high == len(high) / 24
    assert found.perplexity == pytest.approx(math.exp(-sum(chosen) / 24), rel=1e-4)
    assert found.teacher_entropy == pytest.approx(sum(entropies) / 24, rel=1e-4)


def test_texts_together_are_all_tokens() -> None:
    student, teacher, said = tiny("llama", seed=0).model, tiny("llama", seed=1).model, text()
    each = by_text(student, teacher, said, rows=2)
    sizes = said.response[:, 1:].sum(1)
    assert float((each * sizes).sum() / sizes.sum()) == pytest.approx(closeness(student, teacher, said).kl.mean)
    alone = by_text(student, teacher, said[slice(1, 2)])
    assert alone.tolist() == pytest.approx([float(each[1])], rel=1e-5)


def test_a_model_is_as_near_as_can_be_to_itself() -> None:
    model = tiny("llama").model
    found = closeness(model, model, text(), tau=99.0)
    assert abs(found.kl.mean) < 1e-6 and found.agreement == 1 and found.perplexity == found.teacher_perplexity
    assert found.high == 0 and found.kl_high is None


def test_pass_at_k_counts_subsets() -> None:
    answers = [True, False, False, True, False]
    for k in range(1, 6):
        lucky = [any(each) for each in combinations(answers, k)]
        assert pass_at_k([2], 5, k).item() == pytest.approx(sum(lucky) / len(lucky))
    assert pass_at_k([0, 5], 5, 3).tolist() == [0.0, 1.0]
    with pytest.raises(UsageError, match="pass@6 from 5 answers"):
        pass_at_k([1], 5, 6)


def test_pairs_are_resampled_together() -> None:
    first = torch.rand(50, generator=torch.Generator().manual_seed(0))
    found = paired(first + 0.1, first)  # the same difference on every problem has no spread
    assert found.mean == pytest.approx(0.1) and found.high - found.low < 1e-6
    wide = paired(first, first.flip(0))
    assert wide.low < 0 < wide.high
    with pytest.raises(UsageError, match="50 problems against 49"):
        paired(first, first[:-1])


def test_diversity_of_a_repeating_text() -> None:
    ids = torch.tensor([[9, 4, 4, 4, 4], [9, 5, 6, 7, 8]])
    response = torch.tensor([[False, True, True, True, True]] * 2)
    assert diversity(Written(ids, torch.ones_like(response), response)) == 4 / 6
