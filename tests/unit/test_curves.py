"""Curves whose areas are known by hand, over rankings whose every part has a known score."""

import math
from collections.abc import Callable

import pytest
import torch
from jaxtyping import Bool
from torch import Tensor

from subcircuit.evaluation.curves import SIZES, Curve, curve
from subcircuit.evaluation.panel import Panel
from subcircuit.evaluation.ranking import NodeRanking
from subcircuit.evaluation.setting import Setting
from subcircuit.scores import PerPrompt
from subcircuit.sites import Kind, Site
from tiny import HEADS, NEURONS
from tiny_circuit import by_hand, kept_nodes, planted_circuit
from tiny_task import planted_study

ITEMS, PROMPTS = 1000, 8
SETTING = Setting(granularity="node", component="head", ablation="corrupt", set="outside the top of a ranking")
Answer = Callable[[Bool[Tensor, " item"]], Tensor]


class Known:
    """Items in the order of their scores, and a rule that gives each prompt's logit difference."""

    setting, signed = SETTING, True

    def __init__(self, answer: Answer, full: Tensor | None = None, empty: Tensor | None = None) -> None:
        self.scores = torch.arange(ITEMS, 0, -1).float()
        self.answer, self.asked = answer, list[int]()
        full = torch.ones(PROMPTS) if full is None else full
        self.ends = (_found(full), _found(torch.zeros(len(full)) if empty is None else empty))

    def connected(self, chosen: Bool[Tensor, " item"]) -> Bool[Tensor, " item"]:
        return chosen

    def run(self, chosen: Bool[Tensor, " item"]) -> PerPrompt:
        self.asked.append(int(chosen.sum()))
        return _found(self.answer(chosen))


@pytest.mark.parametrize(
    ("needed", "cpr", "cmd"),
    [(1, 0.999, 0.0), (ITEMS, 0.25, 0.749), (ITEMS // 2, 0.65, 0.349)],
    ids=["perfect", "of no use before the end", "perfect from the half"],
)
def test_areas_are_those_of_trapezoids_by_hand(needed: int, cpr: float, cmd: float) -> None:
    found = curve(_from(needed))
    assert found.means is not None and found.by_prompt is not None
    for areas in (found.means, found.by_prompt):
        assert areas.area is not None and areas.distance is not None
        assert areas.area.mean == pytest.approx(cpr, abs=1e-9)
        assert areas.distance.mean == pytest.approx(cmd, abs=1e-9)
        assert (areas.area.low, areas.area.high) == pytest.approx((cpr, cpr))  # all prompts are alike


def test_over_log_k_perfect_is_one_and_the_last_step_is_its_share_of_three_decades() -> None:
    perfect, late = curve(_from(1)).means, curve(_from(ITEMS)).means
    assert perfect is not None and perfect.log_area is not None and perfect.log_distance is not None
    assert (perfect.log_area.mean, perfect.log_distance.mean) == pytest.approx((1, 0))
    assert late is not None and late.log_area is not None
    assert late.log_area.mean == pytest.approx(0.5 * math.log(2) / math.log(1000))


def test_sizes_hold_the_whole_part_of_k_times_n_items() -> None:
    ranking = _from(1)
    found = curve(ranking)
    assert ranking.asked == [point.items for point in found.points] == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    assert [point.fraction for point in found.points] == list(SIZES)
    ranking.scores = ranking.scores[:158]  # heads and MLPs of GPT-2 small
    assert [point.items for point in curve(ranking).points] == [0, 0, 0, 1, 3, 7, 15, 31, 79, 158]


def test_ranked_by_signed_score_or_by_magnitude() -> None:
    """Half of the scores are negative, the largest of them in magnitude."""
    picked: list[set[int]] = []

    def answer(chosen: Tensor) -> Tensor:
        picked.append(set(chosen.nonzero()[:, 0].tolist()))
        return torch.ones(PROMPTS)

    ranking = Known(answer)
    ranking.scores = torch.tensor([1.0, -4.0, 3.0, -2.0])
    curve(ranking, "score", sizes=(0.25, 0.5, 1.0))
    curve(ranking, "magnitude", sizes=(0.25, 0.5, 1.0))
    assert picked == [{2}, {0, 2}, {0, 1, 2, 3}, {1}, {1, 2}, {0, 1, 2, 3}]


def test_a_ratio_of_means_is_not_a_mean_of_ratios() -> None:
    ranking = Known(lambda chosen: torch.tensor([0.5, 3.0]), full=torch.tensor([1.0, 3.0]))
    point = curve(ranking).points[0]
    assert point.faithfulness is not None and point.by_prompt is not None
    assert point.faithfulness.mean == pytest.approx(3.5 / 4)
    assert point.by_prompt.mean == pytest.approx((0.5 + 1) / 2)
    assert point.faithfulness.low == pytest.approx(0.5) and point.faithfulness.high == pytest.approx(1)


def test_prompts_without_a_gap_have_no_ratio_of_their_own() -> None:
    ranking = Known(
        lambda chosen: torch.tensor([1.0, 3.0, 5.0]), torch.tensor([2.0, 3.0, 5.0]), torch.tensor([0, 0, 5.0])
    )
    found = curve(ranking)
    assert found.left_out == 1
    assert found.points[0].by_prompt is not None
    assert found.points[0].by_prompt.mean == pytest.approx((0.5 + 1) / 2)


def test_without_a_gap_faithfulness_is_undefined_and_says_so() -> None:
    """Two prompts whose gaps cancel: each has a ratio of its own, the means have none."""
    found = curve(Known(lambda chosen: torch.zeros(2), torch.tensor([1.0, -1.0])))
    assert found.means is None and found.points[-1].faithfulness is None
    assert found.by_prompt is not None
    assert "gap is zero" in found.undefined
    assert Curve.model_validate_json(found.model_dump_json()) == found
    assert curve(_from(1)).undefined == ""


def test_unconnected_items_are_dropped_before_a_run() -> None:
    ranking = _from(1)
    ranking.connected = lambda chosen: chosen & (torch.arange(ITEMS) % 2 == 0)  # type: ignore[method-assign]
    found = curve(ranking)
    assert [point.connected for point in found.points] == [1, 1, 3, 5, 10, 25, 50, 100, 250, 500]
    assert ranking.asked == [point.connected for point in found.points]


# -- nodes ----------------------------------------------------------------------------------------------------------


def test_ten_sizes_of_a_planted_circuit_cost_few_passes_and_are_faithful_once_it_fits() -> None:
    subject, task = planted_study()
    panel = Panel.draw(subject, planted_circuit(subject), task, n=12)
    found = curve(NodeRanking(panel))
    planted = 8 * len(HEADS) + len(NEURONS)
    assert found.setting.component == "channel,neuron"
    assert found.total == 2 * (32 + 48)
    for point in found.points:
        assert point.faithfulness is not None
        if point.items >= planted:
            assert point.faithfulness.mean == pytest.approx(1, abs=1e-5)
        elif point.items == 0:
            assert point.faithfulness.mean == 0
    assert sum(0 < point.items < planted for point in found.points) > 0
    assert panel.passes <= 15 - 2  # the plain run and the recording of references are the other two


def test_a_node_is_worth_no_more_than_the_gate_above_it() -> None:
    subject, task = planted_study()
    circuit = planted_circuit(subject)
    head, channel = Site(0, Kind.HEAD), Site(0, Kind.CHANNEL)
    scores = {site: torch.full((len(kept),), 5.0) for site, kept in circuit.kept.items()}
    scores[head][3] = -2.0
    gates = by_hand(dict(circuit.kept))
    gates.scores.update(scores)  # type: ignore[attr-defined]
    ranking = NodeRanking(Panel.draw(subject, gates, task, n=4))
    assert ranking.sites[0] == channel
    assert ranking.scores[:32].tolist() == [5.0] * 24 + [-2.0] * 8
    effects = by_hand(dict(circuit.kept), settings={"rank": "magnitude"})
    effects.scores.update(scores)  # type: ignore[attr-defined]
    assert NodeRanking(Panel.draw(subject, effects, task, n=4)).scores[:32].tolist() == [5.0] * 32


def test_items_are_the_finest_gates_of_every_place() -> None:
    """Heads and whole MLPs, as in MIB; what has no finer gate stands for itself."""
    subject, task = planted_study()
    kept = {site: truth for site, truth in planted_circuit(subject).kept.items() if site.kind in (Kind.HEAD, Kind.MLP)}
    assert [str(site) for site in NodeRanking(Panel.draw(subject, by_hand(kept), task, n=4)).sites] == [
        "0.head", "0.mlp", "1.head", "1.mlp",
    ]  # fmt: skip
    half = kept_nodes(subject, HEADS, NEURONS)
    kept = {site: truth for site, truth in half.items() if site.kind in (Kind.BLOCK, Kind.HEAD)}
    ranking = NodeRanking(Panel.draw(subject, by_hand(kept), task, n=4))
    assert {site.kind for site in ranking.sites} == {Kind.BLOCK, Kind.HEAD}


def _from(needed: int) -> Known:
    """A ranking that is faithful as soon as it holds `needed` items."""
    return Known(lambda chosen: torch.full((PROMPTS,), float(chosen.sum() >= needed)))


def _found(difference: Tensor) -> PerPrompt:
    return {"logit_difference": difference, "kl": torch.zeros(len(difference))}
