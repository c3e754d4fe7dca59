"""Commands that are killed at drawn moments and gone on with, until they end; and what they leave, to be compared."""

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

__all__ = ["LONGEST", "Command", "Killed", "Long", "contents", "copied", "killed", "undisturbed"]

TIMES = ("seconds", "started")  # what no two runs have in common
EVERY = 0.005  # seconds between looks
LONGEST = 240.0  # seconds of a command


@dataclass(frozen=True)
class Long:
    """A verb that takes long."""

    words: Callable[[Path], list[str]]  # its command line, into a folder
    again: tuple[str, ...] = ()  # what is added to go on
    prepare: Callable[[Path], object] = lambda folder: None  # makes what must be in the folder before
    ended: Callable[[Path], bool] = lambda folder: False  # whether a folder holds a run that needs no more


@dataclass
class Killed:
    """How it went."""

    folders: list[Path] = field(default_factory=list)  # of runs that came to their end
    kills: int = 0
    shards: list[dict[str, int]] = field(default_factory=list)  # in the store after each kill, and at the end


class Command:
    """`python -m subcircuit`, from its first import on."""

    def __init__(self, words: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "subcircuit", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def ended(self, within: float) -> int | None:
        """Its exit code, or None when it still runs after so many seconds."""
        try:
            _, told = self.process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            return None
        if self.process.returncode:
            print(told)
        return self.process.returncode


def undisturbed(long: Long, folder: Path) -> tuple[float, float]:
    """Run a command to its end; when it began to write, and when it ended, in seconds from its start."""
    long.prepare(folder)
    before, began, written = _seen(folder), time.monotonic(), None
    process = Command(long.words(folder))
    while (code := process.ended(EVERY)) is None:
        if written is None and _seen(folder) != before:
            written = time.monotonic() - began
    assert code == 0
    took = time.monotonic() - began
    return took if written is None else written, took


def killed(
    long: Long,
    folder: Path,
    *,
    kills: int,
    seed: int,
    between: tuple[float, float],
) -> Killed:
    """Kill a command so many times, and let it end.

    Moments are drawn `between` these seconds after each start. Where it ends before, it begins anew beside.
    """
    drawn, found = random.Random(seed), Killed()
    here = _begun(long, folder, 0)
    while True:
        moment = drawn.uniform(*between) if found.kills < kills else LONGEST
        process = Command([*long.words(here), *long.again])
        code = process.ended(moment)
        if code is None:
            assert found.kills < kills, f"{long.words(here)} takes more than {LONGEST} s"
            process.kill()
            found.kills += 1
        found.shards.append(_shards(here))
        if code is None and not long.ended(here):
            continue
        assert code in (0, None)
        found.folders.append(here)
        if found.kills == kills:
            return found
        here = _begun(long, folder, len(found.folders))
        found.shards.append({})


def contents(folder: Path) -> dict[str, Any]:
    """What is in a folder's files, by name, without the times that they tell."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(folder))] = _content(path)
    return found


def _content(path: Path) -> Any:
    if path.suffix == ".safetensors":
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            return file.metadata(), {name: (str(x.dtype), x.shape, x.tobytes()) for name, x in tensors.items()}
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".yaml":
        return _timeless(yaml.safe_load(path.read_text(encoding="utf-8")))
    return path.read_bytes()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(each) for name, each in value.items() if name not in TIMES}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


def _begun(long: Long, folder: Path, number: int) -> Path:
    here = folder / str(number) / "out"  # the same name, which some records tell
    here.parent.mkdir(parents=True)
    long.prepare(here)
    return here


def _seen(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")} if folder.exists() else set()


def _shards(folder: Path) -> dict[str, int]:
    """When each result of a shard was written."""
    return {path.stem: path.stat().st_mtime_ns for path in (folder / "shards").rglob("*.safetensors")}


def copied(source: Path) -> Callable[[Path], object]:
    """What puts a copy of a folder where a command works."""
    return lambda folder: shutil.copytree(source, folder)
