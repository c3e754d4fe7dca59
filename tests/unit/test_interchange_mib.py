"""MIB submission folders: what is written passes the validator, and every way to get one wrong is told."""

import json
from pathlib import Path

import pytest
import torch

from edge_circuits import circuit_of, origin, random_circuit
from subcircuit.circuit import Circuit
from subcircuit.edge_tables import Edges
from subcircuit.errors import DataError, UnknownName
from subcircuit.interchange import check_submission, mib, write_submission
from subcircuit.interchange.mib import MODELS, PERCENTAGES, Model
from subcircuit.wiring import Wiring

COUNTS = {"gpt2": 32_491, "qwen2.5": 179_749, "gemma2": 74_218, "llama3": 1_592_881}  # as the benchmark counts them
TINY = {
    "gpt2": Model("openai-community/gpt2", 4, 9, 8),
    "qwen2.5": Model("Qwen/Qwen2.5-0.5B", 4, 9, 8),
    "gemma2": Model("google/gemma-2-2b", 4, 9, 8),
}
GROUPED = Wiring(4, 9, 3)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's names for models of a size that a test can write ten of."""
    monkeypatch.setattr(mib, "MODELS", TINY)


def problems(folder: Path) -> str:
    return "\n".join(f"{each.where}: {each.cause}" for each in check_submission(folder))


def submission(folder: Path) -> Path:
    write_submission(random_circuit(Wiring(4, 9, 9)), folder, Wiring(4, 9, 9), d_model=8, cell="ioi_gpt2")
    write_submission(random_circuit(GROUPED), folder, GROUPED, d_model=8, cell="mcqa_qwen2.5")
    return folder


def sized(folder: Path, shares: tuple[float, ...]) -> Path:
    """Files that say which edges are in, a share of them in percent each."""
    wiring = TINY["gemma2"].wiring
    total = int(wiring.allowed.sum())
    for place, share in enumerate(shares):
        kept = torch.zeros_like(wiring.allowed)
        kept[tuple(wiring.allowed.nonzero()[: int(total * share / 100)].T)] = True
        circuit = circuit_of(Edges(wiring, kept.float(), kept))
        path = write_submission(circuit, folder / "made", wiring, d_model=8, cell="ioi_gemma2")
        cell = folder / "ioi_gemma2"
        cell.mkdir(exist_ok=True)
        path.rename(cell / f"size-{place}.json")
    (folder / "made" / "ioi_gemma2").rmdir()
    (folder / "made").rmdir()
    return folder


@pytest.mark.parametrize("name", COUNTS)
def test_the_models_have_as_many_edges_as_the_benchmark_says(name: str) -> None:
    assert int(MODELS[name].wiring.allowed.sum()) == COUNTS[name]


def test_the_cell_follows_from_the_origin(tmp_path: Path) -> None:
    circuit, wiring = random_circuit(Wiring(2, 2, 2), 9), Wiring(2, 2, 2)
    assert write_submission(circuit, tmp_path, wiring, d_model=8) == tmp_path / "ioi_gpt2" / "importances.json"
    other = Circuit(circuit.scores, circuit.kept, origin(task="docstring"), circuit.edges)
    with pytest.raises(UnknownName, match="no task and model of the benchmark 'docstring_gpt2'"):
        write_submission(other, tmp_path, wiring, d_model=8)


@pytest.mark.usefixtures("small")
def test_what_is_written_passes(tmp_path: Path) -> None:
    assert check_submission(submission(tmp_path)) == []


@pytest.mark.usefixtures("small")
def test_one_folder_alone_does_not_count(tmp_path: Path) -> None:
    write_submission(random_circuit(Wiring(4, 9, 9)), tmp_path, Wiring(4, 9, 9), d_model=8, cell="ioi_gpt2")
    told = problems(tmp_path)
    assert "two tasks at least are required; there is ioi" in told
    assert "two models at least are required; there is gpt2" in told


@pytest.mark.usefixtures("small")
def test_every_flaw_is_told_with_its_place(tmp_path: Path) -> None:
    folder = submission(tmp_path)
    (folder / "ioi_gpt3").mkdir()
    (folder / "ioi_qwen2.5").mkdir()
    (folder / "ioi_qwen2.5" / "importances.pt").write_bytes(b"")
    path = folder / "ioi_gpt2" / "importances.json"
    content = json.loads(path.read_text())
    content["edges"] = {name: {"score": 0.0, "in_graph": True} for name in content["edges"]}
    path.write_text(json.dumps(content))
    (folder / "mcqa_qwen2.5" / "importances.json").write_text(json.dumps(content | {"edges": {"a->b": {"score": 1}}}))
    told = problems(folder)
    for part in (
        "ioi_gpt3: no task and model of the benchmark",
        "importances.pt: a .pt file, which is not opened here",
        "ioi_gpt2/importances.json: every score is 0",
        "edge 'a->b' has no field 'in_graph'",
    ):
        assert part in told
    (folder / "ioi_gemma2").mkdir()
    assert "ioi_gemma2: 0 circuit files" in problems(folder)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("sizes", [PERCENTAGES, (0.0, *PERCENTAGES)])
def test_a_file_for_every_size(tmp_path: Path, sizes: tuple[float, ...]) -> None:
    assert check_submission(sized(submission(tmp_path), sizes)) == []


@pytest.mark.usefixtures("small")
def test_a_size_that_is_not_kept_to(tmp_path: Path) -> None:
    told = problems(sized(submission(tmp_path), (0.1, 0.2, 0.5, 1, 2, 7, 10, 20, 50)))
    assert "no circuit for 5% of the edges: the nearest has 6.9" in told and told.count("no circuit for") == 1


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        check_submission(tmp_path / "none")
