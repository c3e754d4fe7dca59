"""The README's tables say what the benchmark results say."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tables_match_the_results() -> None:
    command = [sys.executable, str(ROOT / "scripts/make_tables.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
