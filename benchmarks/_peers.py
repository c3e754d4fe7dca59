"""Environments of their own for the libraries that are measured beside this one; nothing of theirs is imported here."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

__all__ = ["PINS", "python_of", "run"]

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "subcircuit" / "peers"
PINS = {
    "transformer-lens": ["torch==2.13.0", "transformer-lens==4.3.0"],
    "auto-circuit": ["torch==2.13.0", "transformer-lens<3", "auto-circuit==1.0.1", "attrs", "pyarrow<20"],
}


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment, made and filled when it is missing."""
    folder = CACHE / peer
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"installing {' '.join(PINS[peer])}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PINS[peer]], check=True)
        (folder / "complete").write_text(" ".join(PINS[peer]))
    return python


def run(peer: str, script: str, *arguments: str) -> dict[str, Any]:
    """Run a script of this folder in a peer's environment; what it prints last is JSON."""
    command = [str(python_of(peer)), str(HERE / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{peer} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
