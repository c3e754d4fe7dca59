"""Completeness, minimality, outliers and fitted constants on planted circuits, whose every part is known."""

from dataclasses import replace

import pytest
import torch

from subcircuit import metrics
from subcircuit.circuit import Circuit
from subcircuit.evaluation.completeness import complement, incompleteness, recovered
from subcircuit.evaluation.minimality import inflated, minimality
from subcircuit.evaluation.optimal import Constants, fitted, optimal
from subcircuit.evaluation.outliers import outliers
from subcircuit.evaluation.panel import Panel
from subcircuit.intervention import masked_logits
from subcircuit.sites import Kind, Site
from tiny import HEADS, NEURONS
from tiny_circuit import by_hand, kept_nodes, planted_circuit
from tiny_task import planted_study

IDLE = (0, 3)  # a head that was not planted


@pytest.fixture(scope="module")
def panel() -> Panel:
    subject, task = planted_study()
    return Panel.draw(subject, planted_circuit(subject), task, n=20)


def _panel(heads: list[tuple[int, int]], neurons: list[tuple[int, int]], n: int = 20) -> Panel:
    subject, task = planted_study()
    return Panel.draw(subject, by_hand(kept_nodes(subject, heads, neurons)), task, n=n)


# -- completeness ---------------------------------------------------------------------------------------------------


def test_without_the_planted_circuit_nothing_is_left(panel: Panel) -> None:
    found = complement(panel)
    assert found.scores.faithfulness is not None
    assert found.scores.faithfulness.mean == pytest.approx(0, abs=1e-5)
    assert found.setting.set == "the circuit"
    assert torch.allclose(panel.complement["logit_difference"], panel.empty["logit_difference"], atol=1e-4)


def test_without_half_of_the_planted_circuit_the_other_half_is_left() -> None:
    half, other = _panel(HEADS[:1], NEURONS[:1]), _panel(HEADS[1:], NEURONS[1:])
    assert torch.allclose(half.complement["logit_difference"], other.chosen["logit_difference"], atol=1e-4)


def test_the_planted_circuit_loses_its_parts_as_the_model_does(panel: Panel) -> None:
    found = incompleteness(panel, draws=6)
    assert found.mean is not None and found.share is not None
    assert found.mean.mean == pytest.approx(0, abs=1e-4)
    assert len({round(inside, 3) for inside, _ in found.pairs}) > 1  # parts differ, and some of them matter


def test_half_of_the_planted_circuit_is_incomplete() -> None:
    found = incompleteness(_panel(HEADS[:1], NEURONS[:1]), draws=6)
    assert found.mean is not None and found.share is not None
    by_hand = sum(abs(inside - outside) for inside, outside in found.pairs) / 6
    assert found.mean.mean == pytest.approx(by_hand, rel=1e-4)
    assert found.share > 0.05


def test_ndf_is_faithfulness_in_bounds(panel: Panel) -> None:
    whole = recovered(panel).ndf
    assert whole is not None and whole.mean == pytest.approx(1, abs=1e-5)
    nothing = recovered(_panel([], [])).ndf
    assert nothing is not None and nothing.mean == pytest.approx(0, abs=1e-5)


def test_without_a_gap_the_reason_is_told(panel: Panel) -> None:
    pairs = replace(panel.pairs, corrupt=panel.pairs.clean)
    still = Panel(panel.subject, panel.circuit, panel.discovery, pairs, 32, 2 << 30, 0, lambda name: None)
    assert recovered(still).ndf is None and "gap is zero" in recovered(still).undefined
    found = incompleteness(still, draws=2)
    assert found.share is None and "gap is zero" in found.undefined
    assert complement(still).scores.faithfulness is None and complement(still).undefined


# -- minimality -----------------------------------------------------------------------------------------------------


def test_each_planted_node_is_needed_and_an_idle_one_is_not() -> None:
    panel = _panel([*HEADS, IDLE], NEURONS, n=24)
    found = minimality(panel, exact=60)
    drops = {each.node: each for each in found.nodes}
    for layer, unit in [*HEADS, IDLE]:
        each = drops[f"{layer}.head.{unit}"]
        assert each.drop is not None and each.change is not None
        if (layer, unit) == IDLE:
            assert each.drop.mean == pytest.approx(0, abs=1e-5) and each.change == pytest.approx(0, abs=1e-5)
            assert each.first_order == pytest.approx(0, abs=1e-5)
        else:
            assert each.change > 0.01
    assert all(drops[f"{layer}.neuron.{unit}"].change > 0.01 for layer, unit in NEURONS)  # type: ignore[operator]
    assert "0.head.3" in found.negligible
    assert found.fine["neuron"].kept == 3


def test_a_drop_is_the_difference_of_two_runs(panel: Panel) -> None:
    found = next(each for each in minimality(panel, exact=60).nodes if each.node == "1.head.2")
    kept = kept_nodes(panel.subject, HEADS[:1], NEURONS)
    by_run = (panel.chosen["logit_difference"] - panel.run("", kept)["logit_difference"]).mean()
    assert found.drop is not None
    assert found.drop.mean == pytest.approx(float(by_run), rel=1e-4)


def test_first_order_is_the_slope_of_the_logit_difference(panel: Panel) -> None:
    """Against a small step of the head's own gate, run with soft masks."""
    found = {each.node: each.first_order for each in minimality(panel, exact=0).nodes}
    subject, pairs, step = panel.subject, panel.pairs, 2e-3
    means = []
    for gate in (1 - step, 1 + step):
        mask = {site: kept.float() for site, kept in panel.circuit.kept.items()}
        mask[Site(0, Kind.HEAD)][1] = gate
        logits = masked_logits(subject, pairs.clean, mask, panel.reference)
        means.append(float(metrics.logit_difference(logits, pairs.right, pairs.wrong).mean()))
    assert found["0.head.1"] == pytest.approx((means[1] - means[0]) / (2 * step), rel=0.02)


def test_only_as_many_nodes_are_run_as_asked_for(panel: Panel) -> None:
    before = panel.passes
    found = minimality(panel, exact=2)
    assert panel.passes - before == 2 == sum(each.drop is not None for each in found.nodes)
    assert {each.node for each in found.nodes} == {"0.head.1", "1.head.2", "0.mlp", "1.mlp"}
    unmeasured = [abs(each.first_order) for each in found.nodes if each.drop is None]
    assert max(abs(each.first_order) for each in found.nodes if each.drop is not None) <= min(unmeasured)


def test_idle_nodes_change_nothing_when_they_are_opened(panel: Panel) -> None:
    found = inflated(panel, draws=50)
    assert len(found) == 6  # all heads but the planted two
    assert found.max() < 1e-4


def test_opening_a_node_opens_all_that_it_takes() -> None:
    """The circuit without its second layer's attention, and that layer's head alone, make the whole."""
    panel = _panel(HEADS[:1], NEURONS)
    whole = Panel.draw(panel.subject, planted_circuit(panel.subject), planted_study()[1], n=20)
    expected = (whole.chosen["logit_difference"] - panel.chosen["logit_difference"]).abs().mean()
    assert float(inflated(panel, draws=50).max()) == pytest.approx(float(expected), rel=1e-4)


# -- prompts and constants ------------------------------------------------------------------------------------------


def test_the_farthest_prompt_is_the_outlier() -> None:
    panel = _panel(HEADS[:1], NEURONS[:2])
    kl = torch.full((20,), 0.1)
    kl[7], kl[3] = 5.0, 2.0
    panel.__dict__["chosen"] = {**panel.chosen, "kl": kl}
    found = outliers(panel)
    assert [each.row for each in found.prompts] == [7, 3] and found.count == 2
    ids = panel.pairs.clean.ids[7]
    assert found.prompts[0].text == panel.subject.tokenizer.decode(ids, skip_special_tokens=True) != ""


def test_fitted_constants_disturb_less_than_means_on_the_prompts_they_are_fitted_on() -> None:
    subject, task = planted_study()
    circuit: Circuit = by_hand(kept_nodes(subject, HEADS[:1], NEURONS[:2]))
    discovery = task.pairs(subject.tokenizer, 16)
    panel = Panel(subject, circuit, discovery, discovery, 32, 2 << 30, 0, lambda name: None)
    found = optimal(panel, steps=40)
    assert found.kl is not None and found.mean_kl is not None
    assert found.kl.mean < 0.9 * found.mean_kl.mean
    assert found.setting.ablation == "optimal"


def test_without_steps_constants_stay_where_they_were() -> None:
    panel = _panel(HEADS[:1], NEURONS[:2])
    start = Constants({site: torch.zeros(1, 1, *_shape(panel, site)) for site in panel.inner})
    same = fitted(panel, start, steps=0, lr=0.1)
    assert all(torch.equal(same.values[site], value) for site, value in start.values.items())


def _shape(panel: Panel, site: Site) -> torch.Size:
    return panel.subject.record(panel.pairs.clean[:1], [site])[1][site].shape[2:]
