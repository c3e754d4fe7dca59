"""The page of an attribution graph in a real browser: its numbers are those of the file, by mouse and by keyboard."""

from pathlib import Path

import pytest

from chromium import Opened, Opening
from graph_folders import graph_folder, random_graph
from subcircuit.graphs.coarsening import coarsen, within
from subcircuit.graphs.graph import Graph
from subcircuit.graphs.influence import influence, normalised, quality

EVERY = "#graph [data-name]"


@pytest.fixture(scope="module")
def graph() -> Graph:
    return random_graph()


@pytest.fixture(scope="module")
def folder(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return graph_folder(tmp_path_factory.mktemp("graph"), graph)


def slide(found: Opening, nodes: int) -> None:
    found.page.evaluate(
        "(at) => { const s = document.querySelector('#nodes'); s.value = at; s.dispatchEvent(new Event('input')) }",
        nodes,
    )
    found.page.wait_for_function(f"document.querySelector('output[for=nodes]').textContent === '{nodes}'")


def links(found: Opening, side: int) -> dict[str, float]:
    """The signed effects in the panel, by node; 0: inputs, 1: outputs."""
    for more in found.page.locator(f"#panel .pair > div:nth-child({side + 1}) .links + button").all():
        more.click()
    rows = found.page.locator(f"#panel .pair > div:nth-child({side + 1}) .links li:not(.heads)").all()
    return {each.locator("button").inner_text(): float(each.locator("data").get_attribute("value")) for each in rows}


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_opens_by_itself_and_complains_of_nothing(folder: Path, opened: Opened, width: int, theme: str) -> None:
    found = opened(folder, width=width, theme=theme)
    found.page.select_option("#level", "1")
    found.page.locator(".mark.group").first.click()
    found.unfold()
    found.keep(f"graph-{width}-{theme}")
    assert found.complaints == []
    assert [url.split(":")[0] for url in found.requests] == ["file"]
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_strip_and_the_slider_say_what_the_file_says(graph: Graph, folder: Path, opened: Opened) -> None:
    found, told = opened(folder), quality(graph)
    assert found.number("#replacement") == pytest.approx(told.replacement)
    assert found.number("#completeness") == pytest.approx(told.completeness)
    assert found.text("h1").startswith(graph.prompt)
    assert "Austin 62.0%" in found.text(".facts")
    mass = influence(normalised(graph.adjacency), graph.start)
    inner = mass[: graph.token_nodes.start].argsort(descending=True)
    for nodes in (5, 60):
        slide(found, nodes)
        last = mass[inner[nodes - 1]]
        assert found.number("#share") == pytest.approx(float(mass[mass >= last].sum() / mass.sum()), rel=1e-4)
        shown = found.page.locator(EVERY).evaluate_all("all => all.map(each => each.dataset.name)")
        ends = range(graph.token_nodes.start, len(graph))
        assert sorted(shown) == sorted(graph.name(int(node)) for node in [*inner[:nodes], *ends])


def test_a_nodes_inputs_and_outputs_are_the_files_effects(graph: Graph, folder: Path, opened: Opened) -> None:
    found, mass = opened(folder), influence(normalised(graph.adjacency), graph.start)
    slide(found, int((mass[: graph.token_nodes.start] > 0).sum()))
    middle = max(range(48, 96), key=lambda node: float(mass[node]))
    found.page.locator(f"[data-name='{graph.name(middle)}']").click()
    for side, effects in enumerate((graph.adjacency[middle], graph.adjacency[:, middle])):
        reached = [
            node for node in effects.nonzero()[:, 0].tolist() if mass[node] > 0 or node >= graph.token_nodes.start
        ]
        listed = links(found, side)
        assert set(listed) == {graph.name(node) for node in reached}
        assert [listed[graph.name(node)] for node in reached] == pytest.approx([float(effects[n]) for n in reached])
    assert list(links(found, 0).values()) == sorted(links(found, 0).values(), key=abs, reverse=True)
    assert found.page.evaluate("document.querySelectorAll('#graph *').length") <= 2000


def test_a_group_stands_for_its_features_and_opens_in_place(graph: Graph, folder: Path, opened: Opened) -> None:
    found, mass = opened(folder), influence(normalised(graph.adjacency), graph.start)
    kept = (mass[graph.feature_nodes] > 0).nonzero()[:, 0]
    slide(found, int((mass[: graph.token_nodes.start] > 0).sum()))
    hierarchy = coarsen(within(graph, kept))
    found.page.select_option("#level", "2")
    groups = [hierarchy.members(2, group) for group in range(hierarchy.sizes[2])]
    assert found.number("#groups") == sum(len(members) > 1 for members in groups)
    largest = max(range(len(groups)), key=lambda group: len(groups[group]))
    members = kept[groups[largest]]
    best = graph.name(int(members[mass[members].argmax()]))
    name = f"{best} and {len(members) - 1} more"
    found.page.locator(f"[data-name='{name}']").click()
    target = graph.target_nodes.start
    effect = float(graph.adjacency[target, members].sum())
    assert links(found, 1)[graph.name(target)] == pytest.approx(effect, rel=1e-5)
    before = found.page.locator(EVERY).count()
    found.page.click("#expand")
    parts = hierarchy.children(2, largest)
    assert found.page.locator(EVERY).count() == before - 1 + len(parts) and len(parts) > 1
    found.page.locator(f"[data-name^='{best}']").click()
    found.page.click("#collapse")
    assert found.page.locator(EVERY).count() == before
    assert found.text(".panel-head b") == name


def test_it_is_read_by_keyboard_and_shows_texts(graph: Graph, folder: Path, opened: Opened) -> None:
    found = opened(folder)
    found.page.focus("#graph")
    found.page.keyboard.press("ArrowRight")
    assert found.text("#graph-focus b").startswith("token '<s>'")
    found.page.keyboard.press("ArrowUp")
    walked = found.text("#graph-focus b")
    found.page.keyboard.press("Enter")
    assert found.text(".panel-head b") == walked != "token '<s>'@0"
    found.page.keyboard.press("Escape")
    assert found.page.locator("#panel").count() == 0
    slide(found, 150)
    found.unfold("Nodes as a table")
    while found.page.locator(".table button:has-text('more rows')").count():
        found.page.locator(".table button:has-text('more rows')").click()
    found.page.locator(f"td button:text-is('{graph.name(0)}')").click()
    assert found.text(".examples mark") == "Texas" and "<b>" in found.text(".examples p")


def test_it_prints_dark_ink_on_white(folder: Path, opened: Opened) -> None:
    found = opened(folder, theme="dark")
    found.page.emulate_media(media="print", color_scheme="dark")
    found.page.set_viewport_size({"width": 700, "height": 990})
    assert found.page.evaluate("document.querySelector('#graph').getBoundingClientRect().right") <= 700
    assert found.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    found.keep("graph-print")
