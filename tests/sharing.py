"""Methods run by several processes: `python sharing.py OUT METHOD ...` is one of them; `start` starts them all."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from subcircuit import plugins
from subcircuit.circuit import Circuit
from subcircuit.ground_truth.planted import RandomTask, planted
from subcircuit.parallel.group import joined, rank

__all__ = ["SETTINGS", "either", "ended", "find", "free_port", "start"]

HERE = Path(__file__).parent
FEW: dict[str, Any] = {"pairs": 9, "validation": 5, "batch": 4}  # shares of two processes differ in size
SETTINGS: dict[str, dict[str, Any]] = {
    "activation-patching": FEW,
    "attribution-patching": {**FEW, "objective": "kl", "steps": 3},
    "causal-tracing": {**FEW, "k": 3, "kinds": "head,mlp", "steps": 3, "polish": 4, "exact": 0},
    "circuit-lasso": {**FEW, "pairs": 12, "channels": 2},
    "edge-attribution": {**FEW, "path": "inputs", "steps": 2},
    "edge-pruning": {**FEW, "steps": 4, "warm_start": 2},
    "greedy-removal": {**FEW, "kinds": "head,mlp"},
    "node-pruning": {**FEW, "steps": 12, "warm_start": 2, "polish": 6},
}


def find(method: str, seed: int = 0, folder: Path | None = None) -> Circuit:
    """The method's circuit of a planted model."""
    subject, run = planted("llama", seed=seed), plugins.load("methods", method)(**SETTINGS[method])
    found: Circuit = run.find(subject, RandomTask(subject), folder=folder)
    return found


def free_port() -> str:
    """A port of this machine on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def start(*words: object, count: int = 2, **more: str) -> list[subprocess.Popen[str]]:
    """Processes as `torchrun` starts them on one machine: python with these words."""
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, words)],
            env=os.environ | shared | {"RANK": str(at), "LOCAL_RANK": str(at), "PYTHONPATH": str(HERE)} | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for at in range(count)
    ]


def either(first: Sequence[str], second: Sequence[str], **more: str) -> list[subprocess.Popen[str]]:
    """Two processes with a command line each."""
    code = f"import sys, os; sys.argv = ['subcircuit', *({[*first]!r}, {[*second]!r})[int(os.environ['RANK'])]]; "
    return start("-c", code + "from subcircuit.cli import main; main()", **more)


def ended(processes: Sequence[subprocess.Popen[str]], seconds: float = 240) -> list[tuple[int, str, str]]:
    """Exit code, output and messages of each."""
    found = [(each.communicate(timeout=seconds), each) for each in processes]
    return [(each.returncode, out, err) for (out, err), each in found]


def main(out: str, *methods: str) -> None:
    torch.set_num_threads(1)
    with joined():
        for method in methods:
            circuit = find(method, folder=Path(out) / "state" / method)
            if rank() == 0:
                circuit.save(Path(out) / method)


if __name__ == "__main__":
    main(*sys.argv[1:])
