"""The state of a search on disk: whole or not at all, and only for the settings it belongs to."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from subcircuit.checkpoint import Checkpoint
from subcircuit.errors import DataError, UsageError

SETTINGS = {"kl": 0.3, "kinds": "head,neuron", "size": None, "steps": 150}


def _saved(folder: Path) -> Path:
    tensors = {
        "head.log_alpha": torch.randn(2, 4),
        "head.allowed": torch.tensor([True, False]),
        "step": torch.tensor(3),
    }
    facts = {"step": 7, "price": 0.1 + 0.2, "average": None, "kl": [0.1]}
    Checkpoint(SETTINGS, tensors, facts).save(folder / "search.safetensors")
    return folder / "search.safetensors"


def test_what_was_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path = _saved(tmp_path)
    found = Checkpoint.load(path, SETTINGS)
    assert found is not None
    assert found.facts == {"step": 7, "price": 0.1 + 0.2, "average": None, "kl": [0.1]}
    assert {name: value.dtype for name, value in found.tensors.items()} == {
        "head.log_alpha": torch.float32,
        "head.allowed": torch.bool,
        "step": torch.int64,
    }
    found.save(again := tmp_path / "again.safetensors")
    copy = Checkpoint.load(again, SETTINGS)
    assert copy is not None
    assert all(torch.equal(copy.tensors[name], value) for name, value in found.tensors.items())


def test_saving_leaves_one_file(tmp_path: Path) -> None:
    _saved(tmp_path)
    _saved(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["search.safetensors"]


def test_no_file_is_no_state(tmp_path: Path) -> None:
    assert Checkpoint.load(tmp_path / "search.safetensors", SETTINGS) is None


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    path = _saved(tmp_path)
    with pytest.raises(UsageError) as refusal:
        Checkpoint.load(path, {**SETTINGS, "kl": 0.5, "steps": 10, "polish": 3})
    assert "kl: 0.3 -> 0.5, polish: None -> 3, steps: 150 -> 10" in refusal.value.message
    assert str(tmp_path) in refusal.value.message
    assert "another folder" in refusal.value.cure


@pytest.mark.parametrize("keep", [0, 20, 100])
def test_a_broken_file_is_named(tmp_path: Path, keep: int) -> None:
    path = _saved(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"search\.safetensors is not the state of a search"):
        Checkpoint.load(path, SETTINGS)


def test_another_file_of_tensors_is_not_the_state_of_a_search(tmp_path: Path) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "search.safetensors")
    with pytest.raises(DataError, match="is not the state of a search"):
        Checkpoint.load(tmp_path / "search.safetensors", SETTINGS)
