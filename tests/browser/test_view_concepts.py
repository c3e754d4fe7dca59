"""A codebook's page with its model behind it: what it shows is what the Python API says, and labels are kept."""

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason='pip install "subcircuit[view]"')

from live_concepts import LiveConcepts, live_concepts
from looking import Looking, looking
from serving import Serving, serving
from subcircuit.concepts.labels import Labels, concept_ids
from subcircuit.view.concept_questions import ConceptAnswer, ConceptQuestion


@pytest.fixture(scope="module")
def concepts(tmp_path_factory: pytest.TempPathFactory) -> LiveConcepts:
    return live_concepts(tmp_path_factory.mktemp("concepts"))


@pytest.fixture(scope="module")
def server(concepts: LiveConcepts) -> Iterator[Serving]:
    with serving(concepts.folder) as found:
        yield found


class Reader(Looking):
    """A page of concepts."""

    def read(self, text: str) -> None:
        self.page.fill("#text", text)
        self.page.click("#ask")
        self.settle()

    def agrees(self, answer: ConceptAnswer) -> None:
        """Every number on the page is the answer's."""
        assert self.number("#live-change") == pytest.approx(answer.concept.change, abs=1e-5)
        assert self.number("#live-random") == pytest.approx(answer.random.change, abs=1e-5)
        assert self.number("#live-removed") == pytest.approx(answer.concept.removed, rel=1e-4)
        words = self.page.locator("button.token").evaluate_all(
            "all => all.map((one) => [one.querySelector('span').textContent, +one.dataset.code, +one.dataset.score])"
        )
        assert [each[:2] for each in words] == [[each.word, each.code] for each in answer.words]
        assert [each[2] for each in words] == pytest.approx([each.score for each in answer.words], abs=1e-5)
        shown = self.page.locator("#live-shares tbody tr").all_inner_texts()
        assert [each.split()[0] for each in shown] == list(answer.shares)
        assert int(self.page.get_attribute("#removed", "data-code")) == answer.code


@pytest.fixture
def look(browser: Any, server: Serving) -> Iterator[Any]:
    with looking(browser, server.url, Reader) as open_:
        yield open_


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_opens_and_asks_nobody_else(server: Serving, look: Any, width: int, theme: str) -> None:
    found = look(width, theme)
    found.read("q r a m x b")
    found.keep(f"live-concepts-{width}-{theme}")
    assert found.complaints == []
    assert all(url.startswith(server.url) for url in found.requests)
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width


def test_what_it_shows_is_what_python_says(concepts: LiveConcepts, look: Any) -> None:
    found, text = look(), "t u z a c"
    found.agrees(concepts.session.answer(ConceptQuestion(text=concepts.session.examples[0])))
    found.read(text)
    first = concepts.session.answer(ConceptQuestion(text=text))
    found.agrees(first)
    other = next(each.code for each in first.words if each.code != first.code)
    found.page.locator(f"button.token[data-code='{other}']").first.click()
    found.settle()
    found.agrees(concepts.session.answer(ConceptQuestion(text=text, code=other)))
    assert found.page.get_attribute("#concepts [aria-selected=true]", "id") == f"concept-{other}"
    found.page.select_option("#where", "judged")
    found.settle()
    found.agrees(concepts.session.answer(ConceptQuestion(text=text, code=other, where="judged")))
    found.page.click("#concept-2")
    found.page.click("#take-out")
    found.settle()
    found.agrees(concepts.session.answer(ConceptQuestion(text=text, code=2, where="judged")))
    assert found.complaints == []


def test_an_example_is_read_and_the_history_has_it(concepts: LiveConcepts, look: Any) -> None:
    found = look()
    found.page.click("#concept-4")
    found.page.locator("#concept .uses button").first.click()
    found.settle()
    example = concepts.study.catalogue.concepts[4].examples[0]
    text = f"{example.before}{example.word}{example.after}"
    found.agrees(concepts.session.answer(ConceptQuestion(text=text)))
    found.read("a b c d")
    found.page.click("#live-history summary")
    rows = found.page.locator("#live-history tbody tr")
    assert "a b c d" in rows.nth(0).inner_text() and text in rows.nth(1).inner_text()
    rows.nth(1).get_by_text("Again").click()
    found.settle()
    assert found.page.input_value("#text") == text


def test_a_text_that_is_too_long_is_refused_in_one_message(look: Any) -> None:
    found = look()
    found.read("a " * 10_001)
    assert "at most 20000 characters" in found.text("#live-problem")
    found.read("a b")
    assert found.page.locator("#live-problem").count() == 0 and found.page.locator("button.token").count() == 2


def test_a_label_is_kept_and_there_after_a_reload(concepts: LiveConcepts, look: Any) -> None:
    found, identity = look(), concept_ids(concepts.study.book)[3]
    Labels(labels={"0123456789ab": "of another codebook"}).save(concepts.folder)
    found.page.click("#concept-3")
    found.page.fill("#label", "  letters <i>late</i> ")
    found.page.click("#keep-label")
    found.page.wait_for_selector("#concept h2:text-is('letters <i>late</i>')")
    kept = Labels.load(concepts.folder)
    assert kept is not None
    assert kept.labels == {"0123456789ab": "of another codebook", identity: "letters <i>late</i>"}
    found.page.reload()
    found.page.wait_for_selector("#live-mind", state="attached")
    assert (
        found.text("#concept h2") == "letters <i>late</i>" and found.page.input_value("#label") == "letters <i>late</i>"
    )
    found.page.click("text=Take it away")
    found.page.wait_for_selector("#concept h2:not(:has-text('letters'))")
    assert Labels.load(concepts.folder) == Labels(labels={"0123456789ab": "of another codebook"})
    assert found.complaints == []


def test_a_report_in_a_file_says_how_to_go_live(concepts: LiveConcepts, opened: Any) -> None:
    found = opened(concepts.folder)
    assert f"subcircuit view {concepts.folder}" in found.text(".live-hint")
    assert found.page.locator("#live-view, #take-out, #label").count() == 0
