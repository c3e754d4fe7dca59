"""Reports in a real browser: opened from a file, without a network, read by keyboard, their numbers those of the files.

Screenshots are left in `tests/browser/artefacts`. Skipped where there is no chromium.
"""

import json
from pathlib import Path

import pytest
import torch

from chromium import Opened
from reported import edge_run, ranked_circuit, ranked_run, scored_run
from subcircuit.circuit import Circuit, matched, tidy
from subcircuit.evaluation import compare
from subcircuit.sites import Kind, Site


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scored_run(tmp_path_factory.mktemp("scored"))


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_opens_by_itself_and_complains_of_nothing(scored: Path, opened: Opened, width: int, theme: str) -> None:
    found = opened(scored, width=width, theme=theme)
    found.unfold()
    found.keep(f"scored-{width}-{theme}")
    assert found.complaints == []
    assert [url.split(":")[0] for url in found.requests] == ["file"]
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width


def test_what_it_says_is_what_the_files_say(scored: Path, opened: Opened) -> None:
    evidence = json.loads((scored / "evidence.json").read_text())
    found = opened(scored)
    assert found.number("#kl") == evidence["circuit"]["kl"]["mean"]
    assert found.number("#faithfulness") == evidence["circuit"]["faithfulness"]["mean"]
    assert found.number("#accuracy") == evidence["circuit"]["accuracy"]["mean"]
    assert found.number("#random") == min(each["kl"]["mean"] for each in evidence["random"])
    assert found.text("#verdict").split()[0] in ("✓", "Evidence")
    assert {kind: found.number(f"#kept-{kind}") for kind in ("head", "mlp", "neuron")} == {
        kind: evidence["sizes"][kind]["kept"] for kind in ("head", "mlp", "neuron")
    }
    worst = max(range(evidence["pairs"]), key=lambda row: evidence["prompts"]["kl"][row])
    found.page.focus("#prompts")
    found.page.keyboard.press("ArrowRight")
    assert f"prompt {worst}" in found.text("figure:has(#prompts) .focus")


@pytest.mark.parametrize("effects", [False, True])
@pytest.mark.parametrize("step", [60, 300, 520, 600])
def test_the_slider_keeps_what_the_ranking_says(tmp_path: Path, opened: Opened, effects: bool, step: int) -> None:
    circuit, found = ranked_circuit(effects), opened(ranked_run(tmp_path / "run", effects))
    total = sum(len(circuit.kept[site]) for site in circuit.kept if site.kind in (Kind.CHANNEL, Kind.NEURON))
    size = max(1, int(0.001 ** (1 - step / 600) * total + 1e-6))
    slide = "(at) => { const s = document.querySelector('#size'); s.value = at; s.dispatchEvent(new Event('input')) }"
    found.page.evaluate(slide, step)
    kept = top(circuit, effects, size)
    found.page.wait_for_selector(f"#kept-neuron[value='{count(kept, 'neuron')}']", timeout=5000)
    assert {kind: found.number(f"#kept-{kind}") for kind in ("head", "mlp", "neuron")} == {
        kind: count(kept, kind) for kind in ("head", "mlp", "neuron")
    }


def top(circuit: Circuit, effects: bool, size: int) -> dict[Site, torch.Tensor]:
    """The first `size` channels and neurons: by magnitude, or by the least gate from the block down."""
    values = {}
    for site in circuit.kept:
        if site.kind in (Kind.CHANNEL, Kind.NEURON):
            line = (Kind.BLOCK, Kind.ATTN, Kind.HEAD) if site.kind is Kind.CHANNEL else (Kind.BLOCK, Kind.MLP)
            own = circuit.scores[site]
            above = [circuit.scores[Site(site.layer, kind)] for kind in line]
            spread = [each.repeat_interleave(len(own) // len(each)) for each in above]
            values[site] = own.abs() if effects else torch.stack([own, *spread]).amin(0)
    sites = sorted(values)
    first = torch.cat([values[site] for site in sites]).argsort(descending=True, stable=True)[:size]
    chosen = torch.zeros(sum(map(len, values.values())), dtype=torch.bool).index_fill(0, first, True)
    parts = dict(zip(sites, chosen.split([len(values[site]) for site in sites]), strict=True))
    return tidy({site: parts.get(site, torch.ones_like(truth)) for site, truth in circuit.kept.items()})


def count(kept: dict[Site, torch.Tensor], kind: str) -> int:
    return sum(int(truth.sum()) for site, truth in kept.items() if site.kind == kind)


def test_it_is_read_by_keyboard(scored: Path, opened: Opened) -> None:
    found = opened(scored)
    found.page.focus("#overview")
    for key, name in [("ArrowRight", "0.head.0"), ("ArrowRight", "1.head.0"), ("ArrowDown", "1.head.1")]:
        found.page.keyboard.press(key)
        assert found.text("#focus b") == name
    before = found.text("#stretch")
    found.page.focus("#neurons")
    found.page.keyboard.press("+")
    closer = found.text("#stretch")
    found.page.keyboard.press("0")
    assert (closer != before) and found.text("#stretch") == before
    found.page.focus("#size")
    found.page.keyboard.press("End")
    assert found.text("#share") == "100%"
    assert "KL 0.00, faithfulness 1.00" in found.text("#readout")
    found.page.click("text=As found")
    assert "as it was found" in found.text("#readout")


def test_edges_are_drawn_and_listed(tmp_path: Path, opened: Opened) -> None:
    found, circuit = opened(run := edge_run(tmp_path / "edges")), Circuit.load(run)
    assert circuit.edges is not None
    assert found.number("#kept-edge") == int(circuit.edges.kept.sum())
    found.unfold("Strongest edges as a table")
    cells = found.page.locator("details:has-text('Strongest edges') td").all_inner_texts()
    listed = {f"{writer}->{reader}" for writer, reader in zip(cells[::3], cells[1::3], strict=True)}
    assert listed <= set(circuit.edges.names()) and len(listed) == min(50, int(circuit.edges.kept.sum()))
    found.keep("edges-1280-light")
    assert found.complaints == []


def test_two_runs_side_by_side(scored: Path, tmp_path: Path, opened: Opened) -> None:
    circuit = Circuit.load(scored)
    lots = {site: torch.rand(len(truth)) for site, truth in circuit.kept.items()}
    Circuit(circuit.scores, matched(circuit.kept, lots), circuit.origin).save(other := tmp_path / "other")
    overlap = compare([scored, other]).together[0].kinds["neuron"]
    found = opened(scored, other)
    cells = found.page.locator("#compare tr:has-text('neurons') td").all_inner_texts()
    assert [int(cell) for cell in cells[1:5]] == [
        *(overlap.only_first, overlap.only_second, overlap.both),
        overlap.total,
    ]
    found.page.click("nav .choice button:nth-child(2)")
    assert found.text("#verdict").startswith("Not scored")
    found.keep("two-1280-light")
    assert found.complaints == []


def test_names_out_of_a_folder_are_never_code(tmp_path: Path, opened: Opened) -> None:
    evil = "</script><script>window.caught = 1</script><img src=x onerror='window.caught = 1'>"
    found = opened(ranked_run(tmp_path / "run", task=evil))
    assert found.text("h1").startswith(evil)
    assert found.page.evaluate("window.caught") is None
    assert found.complaints == []
    assert len(found.requests) == 1
