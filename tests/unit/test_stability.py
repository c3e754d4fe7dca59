"""Agreement of circuits counted by hand, and of rankings that other prompts cannot change."""

import pytest
import torch
from torch import Tensor

from subcircuit.evaluation.panel import Panel
from subcircuit.evaluation.stability import again, agreement, by_prompt, jaccard, members, over_prompts, over_seeds
from subcircuit.gradients import attribution
from subcircuit.sites import Kind, Site
from tiny import HEADS, NEURONS
from tiny_circuit import by_hand, kept_nodes, planted_circuit
from tiny_task import planted_study

HEAD = Site(0, Kind.HEAD)


def test_jaccard_is_both_over_either_per_kind() -> None:
    a = members({HEAD: _on(0, 1), Site(1, Kind.HEAD): _on(2), Site(0, Kind.MLP): _on(size=1)})
    b = members({HEAD: _on(1), Site(1, Kind.HEAD): _on(2, 3), Site(0, Kind.MLP): _on(size=1)})
    assert jaccard(a, b) == {"head": 2 / 4, "mlp": 1.0}  # nothing in either is the same


def test_agreement_is_the_mean_over_pairs() -> None:
    circuits = [members({HEAD: each}) for each in (_on(0, 1), _on(0, 1), _on(1, 2), _on(1, 2), _on(3))]
    pairs = [1.0, 1 / 3, 1 / 3, 0.0, 1 / 3, 1 / 3, 0.0, 1.0, 0.0, 0.0]
    found = agreement(circuits)["head"]
    assert found.mean == pytest.approx(sum(pairs) / len(pairs))
    assert 0 <= found.low < found.mean < found.high <= 1


def test_the_same_circuit_from_every_seed_has_no_width() -> None:
    subject, _ = planted_study()
    circuit = planted_circuit(subject)
    found = over_seeds(circuit, [members(circuit.kept)] * 4)
    assert found.runs == 5
    assert {(each.mean, each.low, each.high) for each in found.jaccard.values()} == {(1.0, 1.0, 1.0)}


def test_a_search_is_repeated_with_its_own_settings_and_another_seed() -> None:
    subject, task = planted_study()
    settings = {"size": 0.25, "kinds": "head,neuron", "pairs": 12, "validation": 4, "seed": 0}
    circuit = by_hand(kept_nodes(subject, HEADS, NEURONS), method="attribution-patching", settings=settings)
    found = again(circuit, subject, task)(3)
    assert found.origin.seed == 3 and found.origin.settings["size"] == 0.25
    assert {(node.site.layer, node.unit) for node in found.nodes(Kind.HEAD)} == set(HEADS)


def test_attribution_prompt_by_prompt_has_the_mean_of_attribution() -> None:
    panel = _panel()
    pairs = panel.discovery
    found = by_prompt(panel)
    for site, mean in attribution(panel.subject, pairs, panel.filled(pairs)).items():
        assert torch.allclose(found[site].mean(0), mean, atol=1e-5)


def test_no_resample_of_prompts_loses_what_was_planted() -> None:
    panel = _panel()
    found = over_prompts(panel.circuit, panel.subject, by_prompt(panel), draws=20)
    assert found.jaccard["head"].mean == 1 and found.jaccard["neuron"].mean == 1


def test_scores_of_single_prompts_are_unstable() -> None:
    """Every prompt needs a head of its own: which two are kept depends on the prompts alone."""
    subject, _ = planted_study()
    kept = {site: truth for site, truth in kept_nodes(subject, HEADS, []).items() if site.kind is Kind.HEAD}
    scores = {Site(layer, Kind.CHANNEL): torch.zeros(8, 32) for layer in range(2)}
    for prompt in range(8):
        scores[Site(prompt // 4, Kind.CHANNEL)][prompt, 8 * (prompt % 4)] = 1.0
    found = over_prompts(by_hand(kept), subject, scores, draws=50).jaccard["head"]
    assert found.mean < 0.5 and found.low == 0


def _panel() -> Panel:
    subject, task = planted_study()
    return Panel.draw(subject, planted_circuit(subject), task, n=4)


def _on(*units: int, size: int = 4) -> Tensor:
    return torch.zeros(size, dtype=torch.bool).index_fill(0, torch.tensor(units, dtype=torch.long), True)
