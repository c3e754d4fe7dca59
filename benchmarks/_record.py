"""What every benchmark writes: its figures, the command, the versions and the machine, as one JSON file."""

import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """The machine in words that let a reader judge the figures."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 2**20, 1),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("subcircuit", "torch", "transformers")},
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
    }


def read(name: str) -> dict[str, Any]:
    """What is in `results/NAME.json` so far."""
    path = RESULTS / f"{name}.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return known


def write(name: str, figures: dict[str, Any]) -> Path:
    """Merge figures into `results/NAME.json`; what other parts wrote there stays."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    known = read(name)
    known |= figures | {"machine": machine(), "command": " ".join(["python", *sys.argv])}
    path.write_text(json.dumps(known, indent=1) + "\n")
    return path


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
