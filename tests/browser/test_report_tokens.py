"""Prompts token by token, causal tracings by budget, and the page on paper, in a real browser."""

import json
from pathlib import Path

import pytest

from chromium import Opened
from reported import add_searches, scored_run, traced_run
from subcircuit.evaluation import Evidence, TokenEffects

CHOOSE = """(key) => {
  const select = document.querySelector("#token-choice");
  select.value = key;
  select.dispatchEvent(new Event("change", { bubbles: true }));
}"""


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scored_run(tmp_path_factory.mktemp("scored"))


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return traced_run(tmp_path_factory.mktemp("traced"))


@pytest.fixture(scope="module")
def lots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return traced_run(tmp_path_factory.mktemp("lots"), "random")


def test_a_prompts_effects_are_those_of_the_file(scored: Path, opened: Opened) -> None:
    row = TokenEffects.load(scored).prompts[3]
    found = opened(scored)
    found.page.evaluate(CHOOSE, f"row {row.row}")
    found.page.wait_for_selector(f"#token-gain[value='{row.gain}']", timeout=5000)
    layers = [*row.effects["attn"], *row.effects["mlp"]]
    assert found.number("#token-sum") == pytest.approx(sum(map(sum, layers)), abs=1e-6)
    found.unfold("Every position as a table")
    cells = found.page.locator("#tokens-view tbody tr").nth(5).locator("td").all_inner_texts()
    assert cells[:3] == ["5", row.clean[5], row.corrupt[5]]
    assert _value(cells[-1]) == pytest.approx(sum(layer[5] for layer in layers), abs=0.006, rel=0.006)
    found.page.focus("#tokens")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        found.page.keyboard.press(key)
    told = found.text("#tokens-view .focus")
    assert row.clean[1] in told and "position 1" in told and "layer 1" in told


def test_prompts_that_line_up_have_a_mean(scored: Path, opened: Opened) -> None:
    rows = [row for row in TokenEffects.load(scored).prompts if row.first]
    alike = [row for row in rows if _different(row.clean, row.corrupt) == _different(rows[0].clean, rows[0].corrupt)]
    found = opened(scored)
    assert f"mean of {len(alike)} prompts" in found.page.locator("#token-choice option").first.inner_text()
    assert found.number("#token-gain") == pytest.approx(sum(row.gain for row in alike) / len(alike), rel=1e-6)


def test_a_bar_shows_its_prompts_tokens_and_every_prompt_has_its_faithfulness(scored: Path, opened: Opened) -> None:
    prompts, found = Evidence.load(scored).prompts, opened(scored)
    worst = max(range(len(prompts["kl"])), key=lambda row: prompts["kl"][row])
    found.page.focus("#prompts")
    found.page.keyboard.press("ArrowRight")
    found.page.keyboard.press("Enter")
    assert found.page.input_value("#token-choice") == f"row {worst}"
    found.unfold()
    table = found.page.locator("details:has-text('Prompts as a table')")
    cells = table.locator("tbody tr").first.locator("td").all_inner_texts()
    inside, whole, empty = (prompts[f"{name}logit_difference"][worst] for name in ("", "full_", "empty_"))
    assert int(cells[0]) == worst
    assert _value(cells[2]) == pytest.approx((inside - empty) / (whole - empty), abs=0.006)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_causal_tracing_has_its_effect_and_every_budget(
    traced: Path, lots: Path, opened: Opened, width: int, theme: str
) -> None:
    found = opened(traced, lots, width=width, theme=theme)
    effect = json.loads((traced / "evidence.json").read_text())["circuit"]["effect"]["mean"]
    assert found.number("#effect") == effect
    found.unfold()
    table = found.page.locator("#budgets details:has-text('Effects as a table')")
    names, *rows = [each.locator("th, td").all_inner_texts() for each in table.locator("tr").all()]
    assert names == ["k", "gates", "random", "one gradient", "integrated", "random sets"]
    for cells, k in zip(rows, (1, 3, 5), strict=True):
        own, lot = (Evidence.load(each / f"k-{k}").circuit.effect for each in (traced, lots))
        assert own is not None and lot is not None and int(cells[0]) == k
        assert [_value(cell) for cell in cells[1:3]] == pytest.approx([own.mean, lot.mean], abs=0.006, rel=0.006)
    found.keep(f"traced-{width}-{theme}")
    assert found.complaints == []
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width


def test_searches_of_the_same_run_are_drawn_beside_it(tmp_path: Path, opened: Opened) -> None:
    searches = add_searches(run := traced_run(tmp_path, sizes=(1, 3)), "singles", "random")
    found = opened(run)
    labels = found.page.locator("#budgets text.end").all_text_contents()
    assert labels == ["gates", "singles", "random", "one gradient", "integrated", "random sets"]
    found.unfold("What each search took")
    for name, points in searches.curves.items():
        cells = found.page.locator(f"#budgets tr:has(td:text-is('{name}')) td").all_inner_texts()
        assert int(cells[1].replace(",", "")) == points[-1].passes
    found.page.evaluate("scrollTo(0, 0)")
    found.keep("searches-1280-light")
    assert found.complaints == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_prints_dark_ink_on_white_and_cuts_no_chart(scored: Path, opened: Opened, theme: str) -> None:
    """On paper no script runs: charts that were drawn for the screen must fit all the same."""
    found = opened(scored, theme=theme)
    found.page.context.add_init_script("window.ResizeObserver = class { observe() {} disconnect() {} }")
    found.page.reload()
    found.page.wait_for_selector("#app[data-ready]")
    edges = (
        "Math.max(...[...document.querySelectorAll('canvas, svg')].map((each) => each.getBoundingClientRect().right))"
    )
    assert found.page.evaluate(edges) > 1000
    found.page.emulate_media(media="print", color_scheme=theme)
    found.page.set_viewport_size({"width": 700, "height": 990})
    assert found.page.evaluate(edges) <= 700
    style = found.page.evaluate(
        "(({ color, backgroundColor }) => [color, backgroundColor])(getComputedStyle(document.body))"
    )
    assert style == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]


def _different(clean: list[str], corrupt: list[str]) -> list[int]:
    return [at for at, (one, other) in enumerate(zip(clean, corrupt, strict=True)) if one != other]


def _value(cell: str) -> float:
    return float(cell.split()[0].replace("\N{MINUS SIGN}", "-"))
