"""The page of a codebook in a real browser: opened from a file, filtered, sorted, read by keyboard, true to its files.

Screenshots are left in `tests/browser/artefacts`. Skipped where there is no chromium.
"""

import json
from pathlib import Path

import pytest

from chromium import Opened, Opening
from concept_folders import circuit_folder, codebook_folder
from subcircuit.concepts.labels import Labels, concept_ids
from subcircuit.concepts.study import Study
from subcircuit.concepts.writing import Writing
from subcircuit.report import report
from subcircuit.sites import Node

TYPE = """(text) => {
  const box = document.querySelector("#filter");
  box.value = text;
  box.dispatchEvent(new Event("input"));
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("codebook")
    study = codebook_folder(path)
    Labels(labels={concept_ids(study.book)[4]: "A label <b>of</b> mine"}).save(path)
    return path


def options(found: Opening) -> list[str]:
    return [str(each) for each in found.page.locator("#concepts [role=option]").all_inner_texts()]


def chosen(found: Opening) -> int:
    return int(found.page.get_attribute("#concepts [aria-selected=true]", "id").removeprefix("concept-"))


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_opens_by_itself_and_complains_of_nothing(folder: Path, opened: Opened, width: int, theme: str) -> None:
    found = opened(folder, width=width, theme=theme)
    found.unfold()
    found.keep(f"concepts-{width}-{theme}")
    assert found.complaints == []
    assert [url.split(":")[0] for url in found.requests] == ["file"]
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width


def test_its_numbers_are_those_of_the_files(folder: Path, opened: Opened) -> None:
    concepts = json.loads((folder / "concepts.json").read_text())["concepts"]
    score = json.loads((folder / "score.json").read_text())["faithfulness"]
    book = json.loads((folder / "codebook.json").read_text())["about"]
    found = opened(folder)
    assert (found.number("#count"), found.number("#states")) == (len(concepts), book["states"])
    assert (
        found.number("#perplexity") == book["perplexity"]
        and found.number("#change") == score["concept"]["change"]["mean"]
    )
    assert found.number("#control") == max(each["change"]["mean"] for each in score["controls"].values())
    ids, most = concept_ids(Study.load(folder).book), max(concepts, key=lambda each: (each["size"], -each["code"]))
    assert chosen(found) == most["code"] and found.number("#size") == most["size"]
    for code in {row["code"] for row in score["rows"]}:
        found.page.click(f"#concept-{code}")
        rows = [row for row in score["rows"] if row["code"] == code]
        change = sum(abs(row["after"] - row["before"]) for row in rows) / len(rows)
        assert found.number("#dp") == pytest.approx(change, abs=1e-12) and found.text("#identity") == ids[code]
        cells = found.page.locator("#concept table tbody tr").all_inner_texts()
        assert len(cells) == len(rows) and all(row["text"] in cell for row, cell in zip(rows, cells, strict=True))
    shown = found.page.locator("#concept .uses li").all_inner_texts()
    examples = concepts[code]["examples"]
    assert [each.removesuffix(e["label"]) for each, e in zip(shown, examples, strict=True)] == [
        e["before"] + e["word"] + e["after"] for e in examples
    ]
    assert found.page.locator("#concept .uses mark").all_inner_texts() == [e["word"] for e in examples]
    assert found.page.url.endswith(f"#{ids[code]}")
    assert found.complaints == []


def test_it_is_filtered_sorted_and_read_by_keyboard(folder: Path, opened: Opened) -> None:
    concepts = json.loads((folder / "concepts.json").read_text())["concepts"]
    found = opened(folder)
    word = next(iter(concepts[7]["words"]))
    having = [each for each in concepts if any(word in each_word for each_word in each["words"])]
    found.page.evaluate(TYPE, word)
    found.page.wait_for_selector(f"#matching[value='{len(having)}']")
    assert len(options(found)) == len(having) < len(concepts)
    found.page.evaluate(TYPE, "no such word")
    found.page.wait_for_selector("text=No concept has such a word")
    found.page.evaluate(TYPE, "label mine")
    found.page.wait_for_selector("#matching[value='1']")
    found.page.focus("#filter")
    found.page.keyboard.press("Enter")
    assert chosen(found) == 4 and found.text("#concept h2") == "A label <b>of</b> mine"
    found.page.evaluate(TYPE, "")
    found.page.wait_for_selector(f"#matching[value='{len(concepts)}']")
    found.page.focus("#concepts")
    by_use = sorted(concepts, key=lambda each: (-each["size"], each["code"]))
    for key, at in (("Home", 0), ("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1), ("End", len(concepts) - 1)):
        found.page.keyboard.press(key)
        assert chosen(found) == by_use[at]["code"]
    found.page.click(".columns button:has-text('|dP|')")
    effects = found.page.locator("#concepts [role=option] > span:last-child").all_inner_texts()
    values = [-1.0 if each == "\N{EN DASH}" else float(each) for each in effects]
    assert values == sorted(values, reverse=True)
    found.page.locator("#concept button.plain").first.click()
    similar = Study.load(folder).book.similar(by_use[-1]["code"], 1)[0][0]
    assert chosen(found) == similar
    assert found.complaints == []


def test_nodes_of_a_circuit_are_marked_and_found(folder: Path, tmp_path: Path, opened: Opened) -> None:
    writing = Writing.load(folder)
    assert writing is not None
    head, neuron = (Node.parse(next(iter(parts))) for parts in (writing.concepts[2].heads, writing.concepts[2].neurons))
    run = circuit_folder(tmp_path / "run", [(0, head.unit)], [(0, neuron.unit)])
    found = opened(folder)
    assert found.page.locator("#concept li.kept").count() == 0
    path = tmp_path / "marked.html"
    path.write_text(report(str(folder), circuit=str(run)), encoding="utf-8")
    ids = concept_ids(Study.load(folder).book)
    found.page.goto(f"{path.as_uri()}#{ids[2]}")
    found.page.wait_for_selector("#app[data-ready]")
    assert chosen(found) == 2
    assert found.page.locator("#concept li.kept code").all_inner_texts() == [str(head), str(neuron)]
    told = found.page.locator("#concept .nodes li").first.inner_text()
    share = next(iter(writing.concepts[2].heads.values())) / writing.concepts[2].whole
    assert f"{100 * share:.1f}%".replace("-", "\N{MINUS SIGN}") in told
    found.page.evaluate(TYPE, str(neuron))
    having = [each for each in writing.concepts if str(neuron) in each.neurons]
    found.page.wait_for_selector(f"#matching[value='{len(having)}']")
    assert found.complaints == []


def test_a_codebook_without_labels_scores_and_writers_has_a_page_too(tmp_path: Path, opened: Opened) -> None:
    study = codebook_folder(tmp_path, scored=False)
    (tmp_path / "writers.json").unlink()
    bare = [each.model_copy(update={"labels": {}}) for each in study.catalogue.concepts]
    study.catalogue.model_copy(update={"concepts": bare}).save(tmp_path)
    found = opened(tmp_path)
    assert found.page.locator(".columns button").all_inner_texts() == ["concept", "states"]
    assert "Not scored yet" in found.text(".warnings") and "--writers" in found.text(".warnings")
    assert found.complaints == []


def test_it_prints_all_concepts_and_cuts_nothing(folder: Path, opened: Opened) -> None:
    found = opened(folder, theme="dark")
    found.page.emulate_media(media="print", color_scheme="dark")
    found.page.set_viewport_size({"width": 700, "height": 990})
    box = found.page.evaluate(
        "(({ scrollHeight, clientHeight }) => [scrollHeight, clientHeight])(document.querySelector('#concepts'))"
    )
    assert box[0] <= box[1]
    edges = "Math.max(...[...document.querySelectorAll('body *')].map((each) => each.getBoundingClientRect().right))"
    assert found.page.evaluate(edges) <= 700
    style = found.page.evaluate(
        "(({ color, backgroundColor }) => [color, backgroundColor])(getComputedStyle(document.body))"
    )
    assert style == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]
