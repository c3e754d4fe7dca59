"""The two files a circuit is kept in: read back as it was, or refused by name."""

import json
from pathlib import Path

import pytest
import torch

from subcircuit.circuit import Circuit, Origin, tidy
from subcircuit.errors import DataError
from subcircuit.sites import Kind, Site

UNITS = {Kind.BLOCK: 1, Kind.ATTN: 1, Kind.MLP: 1, Kind.HEAD: 4, Kind.CHANNEL: 8, Kind.NEURON: 6}
LAYERS = 3


def _circuit() -> Circuit:
    """Random nodes and scores."""
    generator = torch.Generator().manual_seed(1)
    scores = {
        Site(layer, kind): torch.randn(units, generator=generator)
        for layer in range(LAYERS)
        for kind, units in UNITS.items()
    }
    kept = tidy({site: score > -0.5 for site, score in scores.items()})
    origin = Origin(
        model="tiny-llama",
        revision="sha256:0",
        family="llama",
        dtype="float32",
        task="random",
        method="node-pruning",
        settings={"kl": 0.3, "size": None},
        reference="corrupt",
        seed=4,
        seconds=1.5,
        pairs={"train": 8, "validation": 4},
        result={"kl": 0.25},
    )
    return Circuit(scores, kept, origin)


def test_a_circuit_comes_back_as_it_was(tmp_path: Path) -> None:
    circuit = _circuit()
    circuit.save(tmp_path / "runs" / "new")
    found = Circuit.load(tmp_path / "runs" / "new")
    assert found.origin == circuit.origin
    assert found.sizes == circuit.sizes
    for mine, theirs in ((circuit.kept, found.kept), (circuit.scores, found.scores)):
        assert set(mine) == set(theirs)
        assert all(torch.equal(mine[site], theirs[site]) for site in mine)
    assert sorted(path.name for path in (tmp_path / "runs" / "new").iterdir()) == ["circuit.json", "scores.safetensors"]


def test_the_file_names_nodes_as_people_do(tmp_path: Path) -> None:
    circuit = _circuit()
    circuit.save(tmp_path)
    data = json.loads((tmp_path / "circuit.json").read_text())
    heads = [
        f"{layer}.head.{unit}" for layer in range(3) for unit in range(4) if circuit.kept[Site(layer, Kind.HEAD)][unit]
    ]
    assert heads and data["nodes"]["head"] == heads
    assert data["sizes"]["head"] == {"kept": len(heads), "total": 12}
    assert data["origin"]["seed"] == 4


@pytest.mark.parametrize("name", ["circuit.json", "scores.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    _circuit().save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=rf"{name} is missing"):
        Circuit.load(tmp_path)


@pytest.mark.parametrize("name", ["circuit.json", "scores.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"[1, 2"])
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    _circuit().save(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        Circuit.load(tmp_path)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ("0.head.99", r"node 0\.head\.99 is outside the circuit's own sizes"),
        ("7.head.0", r"node 7\.head\.0 is outside"),
        ("0.haed.1", "no kind 'haed'; did you mean 'head'"),
        ("head", "'head' is not a"),
    ],
)
def test_a_node_that_cannot_be_is_named(tmp_path: Path, node: str, words: str) -> None:
    _circuit().save(tmp_path)
    path = tmp_path / "circuit.json"
    data = json.loads(path.read_text())
    data["nodes"]["head"].append(node)
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=rf"circuit\.json: .*{words}"):
        Circuit.load(tmp_path)


def test_a_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    _circuit().save(tmp_path)
    path = tmp_path / "circuit.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 2}))
    with pytest.raises(DataError, match="has schema version 2; this version reads 1"):
        Circuit.load(tmp_path)


def test_nothing_is_pickled() -> None:
    sources = (Path(__file__).parents[2] / "src" / "subcircuit").rglob("*.py")
    unsafe = ("pickle", "torch.load", "torch.save", "weights_only=False", "allow_pickle")
    found = [f"{path.name}: {word}" for path in sources for word in unsafe if word in path.read_text(encoding="utf-8")]
    assert found == []
