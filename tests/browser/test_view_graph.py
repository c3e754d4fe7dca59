"""A graph's page with its model behind it: what it shows is what the Python API says."""

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason='pip install "subcircuit[view]"')

from live_graphs import LiveGraph, live_graph
from looking import Looking, looking
from serving import Serving, serving
from subcircuit.view.graph_questions import GraphAnswer, GraphQuestion


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> LiveGraph:
    return live_graph(tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module")
def server(graph: LiveGraph) -> Iterator[Serving]:
    with serving(graph.folder) as found:
        yield found


class Features(Looking):
    """A page of features."""

    def change(self, *names: str) -> None:
        self.page.fill("#feature", " ".join(names))
        self.page.press("#feature", "Enter")
        self.settle()

    def agrees(self, answer: GraphAnswer) -> None:
        """Every number on the page is the answer's."""
        assert self.number("#live-kl") == pytest.approx(answer.kl, abs=1e-5)
        mean = sum(answer.random_kl) / len(answer.random_kl)
        assert self.number("#live-random") == pytest.approx(mean, abs=1e-5)
        rows = self.page.eval_on_selector_all("#live-targets tbody tr", "all => all.map((each) => ({...each.dataset}))")
        for row, target in zip(rows, answer.targets, strict=True):
            said = [float(row[name]) for name in ("moves", "direct", "through")]
            assert said == pytest.approx([target.after - target.before, target.direct, target.through], abs=1e-5)
        tops = self.page.eval_on_selector_all("#live-top tbody tr", "all => all.map((each) => +each.dataset.token)")
        assert tops == [token.id for token in answer.top[: len(tops)]]


@pytest.fixture
def look(browser: Any, server: Serving) -> Iterator[Any]:
    with looking(browser, server.url, Features) as open_:
        yield open_


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_opens_and_asks_nobody_else(server: Serving, look: Any, width: int, theme: str) -> None:
    found = look(width, theme)
    found.page.locator(".offers button").first.click()
    found.settle()
    found.keep(f"live-graph-{width}-{theme}")
    assert found.complaints == []
    assert all(url.startswith(server.url) for url in found.requests)
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_slider_shows_what_python_says(graph: LiveGraph, look: Any) -> None:
    found, names = look(), [graph.names[5], graph.names[-4]]
    assert found.number("#live-kl") == 0 and found.page.locator("#live-targets").count() == 0
    found.change(*names)
    found.agrees(graph.session.answer(GraphQuestion(features=names)))
    for amount in (0.5, -1.0, 1.75):
        found.move("#amount", amount)
        found.agrees(graph.session.answer(GraphQuestion(features=names, amount=amount)))
    found.page.select_option("#fill", "counterfactual")
    found.page.fill("#other", graph.other)
    found.page.press("#other", "Enter")
    found.settle()
    question = GraphQuestion(features=names, amount=1.75, fill="counterfactual", counterfactual=graph.other)
    found.agrees(graph.session.answer(question))
    found.page.click("#undo")
    found.settle()
    assert found.number("#live-kl") == 0


def test_nodes_and_groups_are_switched_in_the_graph(graph: LiveGraph, look: Any) -> None:
    found = look()
    found.move("#nodes", 60)
    found.page.locator("circle.mark.feature").first.click()
    name = found.text(".panel-head b")
    assert found.text("#switch") == "Switch off"
    found.page.click("#switch")
    found.settle()
    found.agrees(graph.session.answer(GraphQuestion(features=[name])))
    assert found.page.get_attribute(".mark.off", "data-name") == name and found.text("#switch") == "Leave alone"
    found.page.click("#switch")
    found.settle()
    found.page.select_option("#level", "1")
    found.page.locator(".mark.group").first.click()
    found.unfold()
    members = found.page.locator(".members span b").all_inner_texts()
    found.page.click("#switch")
    found.settle()
    assert len(members) > 1 and found.page.locator(".mark.group.off").count() == 1
    found.agrees(graph.session.answer(GraphQuestion(features=members)))
    assert found.complaints == []


def test_what_cannot_be_done_is_one_message(graph: LiveGraph, look: Any) -> None:
    found = look()
    found.change("9.9@9")
    assert "the graph has no feature 9.9@9" in found.text("#live-problem")
    found.page.click("#undo")
    found.settle()
    assert found.page.locator("#live-problem").count() == 0
    found.page.locator(".panel, .mark.target").first.click()
    assert found.page.locator("#switch").count() == 0  # of what is no feature


def test_the_history_is_shared(graph: LiveGraph, look: Any) -> None:
    first, second = look(), look(390)
    first.change(graph.names[2])
    expected = first.number("#live-kl")
    second.change(graph.names[7])
    second.page.click("#live-history summary")
    rows = second.page.locator("#live-history tbody tr")
    assert graph.names[7] in rows.nth(0).inner_text() and graph.names[2] in rows.nth(1).inner_text()
    rows.nth(1).get_by_text("Again").click()
    second.settle()
    assert second.number("#live-kl") == pytest.approx(expected, abs=1e-6)


def test_a_report_in_a_file_says_how_to_go_live(graph: LiveGraph, opened: Any) -> None:
    found = opened(graph.folder)
    assert f"subcircuit view {graph.folder}" in found.text(".live-hint")
    found.page.locator("circle.mark.feature").first.click()
    assert found.page.locator("#live-view, #switch").count() == 0
