"""Evidence on circuits whose worth is known: planted ones, useless ones, and tasks that ask nothing."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from subcircuit import metrics
from subcircuit.circuit import Circuit, matched, sizes
from subcircuit.errors import DataError
from subcircuit.evaluation import Evidence, Scores, evidence, judge
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs, Split, Task
from tiny import HEADS, NEURONS
from tiny_circuit import KINDS, ORIGIN, kept_nodes, planted_circuit, scores_of
from tiny_task import RandomTask, planted_study


@dataclass(frozen=True)
class Relabelled:
    """A task whose right and wrong answers are other prompts': there is nothing to explain."""

    task: RandomTask
    name: str = "relabelled"

    def pairs(self, tokenizer: PreTrainedTokenizerBase, n: int, *, seed: int = 0, split: Split = "train") -> Pairs:
        pairs = self.task.pairs(tokenizer, n, seed=seed, split=split)
        coin = torch.rand(n, 1, generator=torch.Generator().manual_seed(1)) < 0.5
        right, wrong = torch.where(coin, pairs.wrong, pairs.right), torch.where(coin, pairs.right, pairs.wrong)
        return replace(pairs, right=right, wrong=wrong)


@dataclass(frozen=True)
class Uncorrupted:
    """A task whose corrupted prompts are the clean ones."""

    task: RandomTask
    name: str = "uncorrupted"

    def pairs(self, tokenizer: PreTrainedTokenizerBase, n: int, *, seed: int = 0, split: Split = "train") -> Pairs:
        pairs = self.task.pairs(tokenizer, n, seed=seed, split=split)
        return replace(pairs, corrupt=pairs.clean)


# -- verdicts -------------------------------------------------------------------------------------------------------


def test_a_planted_circuit_is_evidence() -> None:
    subject, task = planted_study()
    found = _evidence(subject, planted_circuit(subject), task)
    assert found.verdict == "evidence"
    assert found.circuit.kl.mean == pytest.approx(0, abs=1e-6)
    assert found.circuit.faithfulness is not None
    assert found.circuit.faithfulness.mean == pytest.approx(1, abs=1e-5)
    assert found.circuit.exact_match.mean == 1
    assert all(scores.kl.mean > 0.05 for scores in (*found.random, found.empty))


def test_attribution_finds_a_planted_circuit_too_which_is_nothing_against_it() -> None:
    subject, task = planted_study()
    found = _evidence(subject, planted_circuit(subject), task)
    assert found.attribution == found.integrated == found.circuit


@pytest.mark.parametrize("seed", [0, 1])
def test_a_circuit_of_idle_nodes_is_no_evidence(seed: int) -> None:
    """As many nodes as were planted, none of which writes anything."""
    subject, task = planted_study()
    idle = kept_nodes(subject, [(0, 0), (1, seed)], [(0, 9), (1, 20 + seed), (1, 7)])
    found = _evidence(subject, Circuit(scores_of(idle), idle, ORIGIN), task)
    assert found.circuit.kl.mean == pytest.approx(found.empty.kl.mean, rel=1e-4)
    assert found.verdict == "no evidence"


def test_a_random_circuit_is_no_evidence() -> None:
    subject, task = planted_study()
    generator = torch.Generator().manual_seed(11)
    kept = planted_circuit(subject).kept
    lots = matched(kept, {site: torch.rand(len(truth), generator=generator) for site, truth in kept.items()})
    assert _evidence(subject, Circuit(scores_of(lots), lots, ORIGIN), task).verdict == "no evidence"


def test_shuffled_answers_are_no_evidence_however_good_the_circuit() -> None:
    subject, task = planted_study()
    found = _evidence(subject, planted_circuit(subject), Relabelled(task), n=40)
    assert found.circuit.kl.mean == pytest.approx(0, abs=1e-6)
    assert not found.answered
    assert found.verdict == "no evidence"


def test_the_whole_model_is_no_evidence() -> None:
    """Random circuits of its size are the whole model as well."""
    subject, task = planted_study()
    kept = {site: torch.ones(subject.units(site.kind), dtype=torch.bool) for site in subject.sites(*KINDS)}
    found = _evidence(subject, Circuit(scores_of(kept), kept, ORIGIN), task)
    assert found.circuit.kl.mean == 0
    assert found.verdict == "no evidence"


# -- ends of the scale ----------------------------------------------------------------------------------------------


def test_faithfulness_is_one_for_the_full_model_and_zero_for_the_empty_circuit() -> None:
    subject, task = planted_study()
    found = _evidence(subject, planted_circuit(subject), task)
    for scores, value in ((found.full, 1), (found.empty, 0)):
        assert scores.faithfulness is not None
        ends = (scores.faithfulness.mean, scores.faithfulness.low, scores.faithfulness.high)
        assert ends == pytest.approx((value, value, value), abs=1e-5)
    assert found.full.kl.mean == 0
    assert found.full.exact_match.mean == 1


def test_where_corruption_does_nothing_faithfulness_says_nothing() -> None:
    subject, task = planted_study()
    found = _evidence(subject, planted_circuit(subject), Uncorrupted(task))
    assert found.full.faithfulness is None and found.circuit.faithfulness is None
    assert found.verdict == "no evidence"


def test_faithfulness_is_a_ratio_of_means() -> None:
    """Half of the planted circuit, recomputed from logits by the formula of the module's head."""
    subject, task = planted_study()
    half = kept_nodes(subject, HEADS[:1], NEURONS[:2])
    found = _evidence(subject, Circuit(scores_of(half), half, ORIGIN), task)
    assert found.circuit.faithfulness is not None
    means = [scores.logit_difference.mean for scores in (found.circuit, found.full, found.empty)]
    by_hand = (means[0] - means[2]) / (means[1] - means[2])
    assert found.circuit.faithfulness.mean == pytest.approx(by_hand, rel=1e-4)
    assert np.mean(found.prompts["kl"]) == pytest.approx(found.circuit.kl.mean, abs=1e-5)


# -- controls and prompts -------------------------------------------------------------------------------------------


def test_there_are_as_many_different_random_circuits_as_asked_for() -> None:
    subject, task = planted_study()
    found = _evidence(subject, planted_circuit(subject), task, controls=7)
    assert len(found.random) == 7
    assert len({scores.kl.mean for scores in found.random}) > 1  # most draws miss every planted node


def test_the_same_seed_gives_the_same_evidence() -> None:
    subject, task = planted_study()
    circuit = planted_circuit(subject)
    assert _evidence(subject, circuit, task) == _evidence(subject, circuit, task)


def test_no_prompt_of_the_search_is_looked_at_but_for_the_baselines() -> None:
    subject = planted_study()[0]
    asked: list[tuple[str, int]] = []

    class Watched(RandomTask):
        def pairs(self, tokenizer: PreTrainedTokenizerBase, n: int, *, seed: int = 0, split: Split = "train") -> Pairs:
            asked.append((split, n))
            return super().pairs(tokenizer, n, seed=seed, split=split)

    found = _evidence(subject, planted_circuit(subject), Watched(subject), n=9)
    assert sorted(asked) == [("test", 9), ("train", 12)]
    assert (found.split, found.pairs, found.reference) == ("test", 9, "corrupt")
    assert found.sizes == {str(kind): size for kind, size in sizes(planted_circuit(subject).kept).items()}


def test_metrics_are_judged_prompt_by_prompt() -> None:
    full, logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), torch.tensor([[2.0, 0.0, 0.0], [3.0, 2.0, 0.0]])
    pairs = _two_pairs(right=[0, 1], wrong=[1, 0])
    found = judge(full, logits, pairs)
    assert found["logit_difference"].tolist() == [2.0, -1.0]
    assert found["accuracy"].tolist() == [1.0, 0.0]
    assert found["exact_match"].tolist() == [1.0, 0.0]
    assert found["kl"][0] == 0 and found["kl"][1] == pytest.approx(float(metrics.kl(full[1:], logits[1:])))


# -- intervals ------------------------------------------------------------------------------------------------------


def test_intervals_are_those_of_a_bootstrap_by_numpy() -> None:
    """Other draws of the same prompts: ends agree as well as 2000 draws allow."""
    subject, task = planted_study()
    half = kept_nodes(subject, HEADS[:1], NEURONS[:2])
    found = _evidence(subject, Circuit(scores_of(half), half, ORIGIN), task, n=60)
    values = np.array(found.prompts["kl"])
    rows = np.random.default_rng(0).integers(0, len(values), (20_000, len(values)))
    low, high = np.quantile(values[rows].mean(1), [0.025, 0.975])
    spread = high - low
    assert found.circuit.kl.low == pytest.approx(low, abs=0.04 * spread)
    assert found.circuit.kl.high == pytest.approx(high, abs=0.04 * spread)


def test_every_interval_holds_its_mean() -> None:
    subject, task = planted_study()
    half = kept_nodes(subject, HEADS[:1], NEURONS[:2])
    found = _evidence(subject, Circuit(scores_of(half), half, ORIGIN), task, n=40)
    for scores in (found.full, found.circuit, found.empty, found.attribution, *found.random):
        for name in Scores.model_fields:
            estimate = getattr(scores, name)
            if name == "effect":  # of causal tracing alone
                assert estimate is None
                continue
            assert estimate.low - 1e-6 <= estimate.mean <= estimate.high + 1e-6, name


# -- the file -------------------------------------------------------------------------------------------------------


def test_evidence_comes_back_as_it_was(tmp_path: Path) -> None:
    subject, task = planted_study()
    found = _evidence(subject, planted_circuit(subject), Uncorrupted(task))  # with faithfulness null
    found.save(tmp_path)
    assert Evidence.load(tmp_path) == found
    assert [path.name for path in tmp_path.iterdir()] == ["evidence.json"]


def test_missing_evidence_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"evidence\.json is missing") as refusal:
        Evidence.load(tmp_path)
    assert refusal.value.cure == f"run: subcircuit score {tmp_path}"


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"split": 1}'])
def test_broken_evidence_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "evidence.json").write_bytes(content)
    with pytest.raises(DataError, match=r"evidence\.json is not an evidence file"):
        Evidence.load(tmp_path)


# -- the words of these tests ---------------------------------------------------------------------------------------


def _evidence(subject: Subject, circuit: Circuit, task: Task, n: int = 16, controls: int = 10) -> Evidence:
    return evidence(subject, circuit, task, n=n, controls=controls)


def _two_pairs(right: list[int], wrong: list[int]) -> Pairs:
    subject, task = planted_study()
    pairs = task.pairs(subject.tokenizer, 2)
    return replace(pairs, right=torch.tensor(right)[:, None], wrong=torch.tensor(wrong)[:, None])
