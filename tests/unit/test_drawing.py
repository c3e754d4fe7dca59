"""Pictures of circuits: a cell for every head, the counts of neurons, whatever kinds there are."""

import json
from pathlib import Path
from xml.etree import ElementTree

from commands import Ask
from reported import edge_run, ranked_run
from subcircuit.circuit import Circuit
from tiny import HEADS, NEURONS
from tiny_circuit import by_hand, kept_nodes, planted_circuit
from tiny_task import planted_study

SVG = "{http://www.w3.org/2000/svg}"


def titles(svg: str) -> list[str]:
    return [each.text or "" for each in ElementTree.fromstring(svg).iter(f"{SVG}title")]


def test_a_circuit_shows_itself_in_a_notebook() -> None:
    subject, _ = planted_study()
    found = titles(planted_circuit(subject)._repr_html_())
    assert {each for each in found if each.endswith("(kept)")} == {f"{at}.head.{unit} (kept)" for at, unit in HEADS}
    assert len([each for each in found if ".head." in each]) == len(subject) * 4
    assert f"layer 0: {sum(at == 0 for at, _ in NEURONS)} neurons" in found


def test_names_are_text_and_an_empty_circuit_has_a_picture() -> None:
    subject, _ = planted_study()
    svg = by_hand(kept_nodes(subject, [], []), task="<b>&")._repr_html_()
    assert "<b>&" in "".join(ElementTree.fromstring(svg).itertext())
    assert not any(each.endswith("(kept)") for each in titles(svg))


def test_show_draws_into_a_file(ask: Ask, tmp_path: Path) -> None:
    run = ranked_run(tmp_path / "run")
    assert ask("show", run, "--svg", tmp_path / "new" / "run.svg").code == 0
    assert (tmp_path / "new" / "run.svg").read_text() == Circuit.load(run)._repr_html_()
    (run / "evidence.json").write_text(json.dumps({"circuit": {"kl": {"mean": 0.25}, "accuracy": {"mean": 1}}}))
    assert ask("show", run, "--svg", tmp_path / "run.svg").code == 0
    assert "KL 0.25, accuracy 1.00" in (tmp_path / "run.svg").read_text()
    (run / "evidence.json").write_text("{}")
    assert ask("show", run, "--svg", tmp_path / "run.svg").code == 3
    edges = edge_run(tmp_path / "edges")
    assert ask("show", edges, "--svg", tmp_path / "edges.svg").code == 0
    assert "edges" in (tmp_path / "edges.svg").read_text()
