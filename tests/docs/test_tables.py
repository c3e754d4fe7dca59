"""The tables of README and docs say what the benchmark results say."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_tables.py"


def test_the_tables_match_the_results() -> None:
    command = [sys.executable, str(SCRIPT), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_methods_stand_side_by_side_task_by_task() -> None:
    heads = {"jaccard": _estimate(0.5), "by_chance": 0.1, "spearman_magnitude": None}
    pair = {"first": "node-pruning", "second": "random", "kinds": {"head": heads}}
    results = {
        "ioi node-pruning": _point({"head": {"kept": 1, "total": 8}}),
        "docstring random": _point({"head": {"kept": 2, "total": 8}}),
        "ioi random": _point({"head": {"kept": 8, "total": 8}, "edge": {"kept": 3, "total": 200}}),
        "ioi together": {"differences": [], "together": [pair]},
        "machine": {"cores": 2},
    }
    rows = [line for line in _readme_tables().baselines(results).splitlines() if line.startswith(("| ioi", "| doc"))]
    score = "25.0% | **0.20** [0.10, 0.30] | 0.20 | 0.20 (0.20)"
    assert rows == [
        f"| ioi | node-pruning | 12.5% heads | {score} |  |  | 12 |",
        f"| ioi | random | 1.5% edges, 100.0% heads | {score} | 0.50 [0.40, 0.60] (0.10) | undefined | 12 |",
        f"| docstring | random | 25.0% heads | {score} |  |  | 12 |",
    ]


def _point(sizes: dict[str, dict[str, int]]) -> dict[str, Any]:
    scores = {name: _estimate(0.2) for name in ("kl", "exact_match", "accuracy")}
    origin = {"settings": {"kl": 0.3}}
    found = {"origin": origin, "pairs": 8, "sizes": sizes, "circuit": scores, "full": scores}
    return found | {"weights": 0.25, "seconds": 12.3}


def _estimate(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}


def _readme_tables() -> Any:
    spec = importlib.util.spec_from_file_location("readme_tables", SCRIPT.with_name("_readme_tables.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
