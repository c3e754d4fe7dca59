"""Broken EAP-IG and MIB files: each is refused with the file and the field, node or edge in the message."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_circuits import SMALL, small_file, written
from subcircuit.errors import DataError, SubcircuitError
from subcircuit.interchange import read_eap_ig

Break = Callable[[dict[str, Any]], Any]
BROKEN: dict[str, tuple[Break, str]] = {
    "no json": (lambda file: "{", "is not JSON"),
    "a list": (lambda file: [], "needs cfg, nodes and edges, and has list"),
    "no edges": (lambda file: {"cfg": file["cfg"], "nodes": {}}, "and has cfg, nodes"),
    "cfg without heads": (lambda file: file["cfg"].pop("n_heads"), "cfg has no field 'n_heads'"),
    "cfg of another type": (lambda file: file["cfg"].update(n_layers="1"), "cfg's n_layers is '1', and should be of"),
    "another model": (lambda file: file["cfg"].update(n_layers=12), "its cfg says n_layers 12, not 1"),
    "another width": (lambda file: file["cfg"].update(d_model=9), "its cfg says d_model 9, not 8"),
    "unknown node": (lambda file: file["nodes"].update({"a7.h0": {"in_graph": True}}), "no node 'a7.h0'"),
    "missing node": (lambda file: file["nodes"].pop("m0"), "node 'm0' is missing"),
    "unknown writer": (
        lambda file: file["edges"].update({"a9.h0->m0": {"score": 0.0, "in_graph": True}}),
        "edge 'a9.h0->m0' is of no graph of this model: there is no 'a9.h0' to write",
    ),
    "a head without q, k or v": (
        lambda file: file["edges"].update({"input->a0.h0": {"score": 0.0, "in_graph": True}}),
        "there is no 'a0.h0' to read",
    ),
    "an edge back in time": (
        lambda file: file["edges"].update({"m0->a0.h0<q>": {"score": 0.0, "in_graph": True}}),
        "there is no edge 'm0->a0.h0<q>': a0.h0<q> is computed before m0",
    ),
    "an edge into itself": (
        lambda file: file["edges"].update({"m0->m0": {"score": 0.0, "in_graph": True}}),
        "there is no edge 'm0->m0'",
    ),
    "no membership": (lambda file: file["edges"]["input->m0"].pop("in_graph"), "edge 'input->m0' has no field 'in_gr"),
    "one score missing": (
        lambda file: file["edges"]["input->m0"].pop("score"),
        "edge 'input->m0' has no field 'score'",
    ),
    "a score that is text": (lambda file: file["edges"]["input->m0"].update(score="1"), "is '1', no number"),
    "NaN": (lambda file: file["edges"]["input->m0"].update(score=float("nan")), "score of edge 'input->m0' is NaN"),
    "infinite": (lambda file: file["edges"]["input->m0"].update(score=float("inf")), "edge 'input->m0' is infinite"),
    "NaN of a node": (lambda file: file["nodes"]["m0"].update(score=float("nan")), "score of node 'm0' is NaN"),
    "half the nodes scored": (lambda file: file["nodes"]["m0"].update(score=1.0), "only 1 of 3 heads and MLPs have"),
    "neurons": (lambda file: file["nodes"]["m0"].update(neurons=[True]), "node 'm0' lists neurons"),
    "an edge twice": (
        lambda file: json.dumps(file).replace('"input->m0"', '"input->logits"', 1),
        "'input->logits' is there twice",
    ),
}


@pytest.mark.parametrize(("spoil", "told"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_refused_by_name(tmp_path: Path, spoil: Break, told: str) -> None:
    content = small_file()
    spoiled = spoil(content)
    whole = isinstance(spoiled, str | list) or (isinstance(spoiled, dict) and "cfg" in spoiled)
    path = written(tmp_path, spoiled if whole else content)
    with pytest.raises(SubcircuitError) as caught:
        read_eap_ig(path, SMALL, d_model=8)
    assert told in caught.value.message and str(path) in caught.value.message
    assert caught.value.exit_code == 3


def test_a_pt_file_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "importances.pt").write_bytes(b"anything")
    with pytest.raises(DataError, match="may run any code"):
        read_eap_ig(tmp_path / "importances.pt", SMALL)
