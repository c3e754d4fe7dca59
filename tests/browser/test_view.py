"""The live view in a real browser: what it shows is what the Python API says, and nobody is left waiting.

Screenshots are left in `tests/browser/artefacts`. Skipped where there is no chromium.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason='pip install "subcircuit[view]"')

from live import Live, live
from looking import Looking, looking
from serving import Serving, serving
from subcircuit.view import Answer, Change


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Live:
    return live(tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def server(study: Live) -> Iterator[Serving]:
    with serving(study.folder) as found:
        yield found


class Nodes(Looking):
    """A page of nodes."""

    def change(self, *nodes: str) -> None:
        self.page.fill("#node", " ".join(nodes))
        self.page.press("#node", "Enter")
        self.settle()

    def slide(self, amount: float, at: int = 0) -> None:
        self.move(f"#amount-{at}", amount)

    def agrees(self, answer: Answer) -> None:
        """Every number on the page is the answer's."""
        assert self.number("#live-kl") == pytest.approx(answer.kl, abs=1e-5)
        assert self.number("#live-difference") == pytest.approx(answer.changed.logit_difference, abs=1e-5)
        rows = self.page.eval_on_selector_all("#live-top tbody tr", "all => all.map((each) => ({...each.dataset}))")
        shown = {int(row["token"]): float(row["logit"]) for row in rows}
        assert list(shown) == [token.id for token in answer.top]
        assert shown == pytest.approx({token.id: token.logit for token in answer.top}, abs=1e-5)


@pytest.fixture
def look(browser: Any, server: Serving) -> Iterator[Any]:
    with looking(browser, server.url, Nodes) as open_:
        yield open_


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_opens_and_asks_nobody_else(server: Serving, look: Any, width: int, theme: str) -> None:
    found = look(width, theme)
    found.change("1.head.2", "0.mlp")
    found.keep(f"live-{width}-{theme}")
    assert found.complaints == []
    assert all(url.startswith(server.url) for url in found.requests)
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_slider_shows_what_python_says(study: Live, look: Any) -> None:
    found = look()
    found.change("1.head.2", "0.neuron.3")
    for amount, fill in [(0.0, "corrupt"), (0.5, "zero"), (1.75, "mean"), (-1.0, "zero")]:
        found.page.select_option("#fill-0", fill)
        found.slide(amount)
        changes = [Change(nodes=["1.head.2", "0.neuron.3"], amount=amount, fill=fill)]
        found.agrees(study.session.answer(study.question(changes=changes)))
    found.page.click("text=the circuit alone")
    found.settle()
    found.agrees(study.session.answer(study.question(start="circuit", changes=changes)))
    assert found.complaints == []


def test_two_sets_and_another_prompt(study: Live, look: Any) -> None:
    found, other = look(), study.session.examples[3].clean
    found.change("1.head.2")
    found.page.click("text=Another set")
    found.change("0.mlp")
    found.page.select_option("#fill-1", "prompt")
    found.page.fill("#other-1", other)
    found.page.press("#other-1", "Enter")
    found.settle()
    sets = [Change(nodes=["1.head.2"], fill="corrupt"), Change(nodes=["0.mlp"], fill="prompt")]
    found.agrees(study.session.answer(study.question(other=other, changes=sets)))
    found.page.click("text=Undo all")
    found.settle()
    assert found.number("#live-kl") == 0


def test_nodes_are_pressed_on_the_map_and_by_keyboard(study: Live, look: Any) -> None:
    found = look()
    found.page.focus("#live-map")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowDown", "Enter"):
        found.page.keyboard.press(key)
    found.settle()
    assert found.text("#live-focus b") == "1.head.2"
    found.agrees(study.session.answer(study.question(changes=[Change(nodes=["1.head.2"], fill="corrupt")])))
    found.page.locator("button.token").nth(2).click()
    found.settle()
    where = study.question(positions=[2], changes=[Change(nodes=["1.head.2"], fill="corrupt")])
    found.agrees(study.session.answer(where))
    found.page.keyboard.press("Tab")
    found.page.locator("#live-map").click(position={"x": 60, "y": 6})
    found.settle()
    assert found.page.locator(".set .chip").count() == 2


def test_the_snippet_on_the_page_gives_its_number(study: Live, look: Any) -> None:
    found = look()
    found.change("1.head.2", "1.mlp")
    found.slide(0.35)
    told: dict[str, Any] = {}
    exec(found.page.text_content("#live-python"), told)
    assert float(told["difference"]) == pytest.approx(found.number("#live-difference"), abs=1e-5)


def test_own_prompts_and_what_is_wrong_with_them(study: Live, look: Any) -> None:
    found = look()
    found.page.click("text=Type your own")
    words = study.session.examples[4].clean.split()
    found.page.fill("#clean", " ".join(words[:5]))
    found.page.click("#ask")
    found.settle()
    assert "the prompt has 5 tokens, the counterfactual 7" in found.text("#live-problem")
    found.page.fill("#corrupt", "")
    found.page.fill("#answers", "")
    found.page.click("#ask")
    found.settle()
    assert found.page.locator("#live-problem").count() == 0
    assert found.page.locator("button.token").count() == 5
    found.page.fill("#clean", "a " * 3000)
    found.page.click("#ask")
    found.settle()
    assert "3000 tokens" in found.text("#live-problem")
    found.page.click("[aria-label='Next prompt']")
    found.settle()
    found.change("1.head.17")
    assert "there is no node 1.head.17" in found.text("#live-problem")
    found.keep("live-problem")


def test_two_browsers_share_the_history(study: Live, look: Any) -> None:
    first, second = look(), look(390)
    first.change("0.head.1")
    second.change("1.neuron.5")
    expected = first.number("#live-kl")
    second.page.click("#live-history summary")
    rows = second.page.locator("#live-history tbody tr")
    assert "1.neuron.5" in rows.nth(0).inner_text() and "0.head.1" in rows.nth(1).inner_text()
    rows.nth(1).get_by_text("Again").click()
    second.settle()
    assert second.number("#live-kl") == pytest.approx(expected, abs=1e-6)


def test_a_page_that_is_closed_leaves_the_model_to_others(browser: Any, server: Serving, look: Any) -> None:
    gone = browser.new_page()
    gone.goto(server.url)
    gone.wait_for_selector("#node")
    gone.fill("#node", "1.mlp")
    gone.press("#node", "Enter")
    gone.close()
    found = look()
    found.change("1.mlp")
    assert found.number("#live-kl") > 0 and found.complaints == []


def test_a_report_in_a_file_says_how_to_go_live(study: Live, opened: Any, tmp_path: Path) -> None:
    found = opened(study.folder)
    assert f"subcircuit view {study.folder}" in found.text(".live-hint")
    assert found.page.locator("#live-view").count() == 0
