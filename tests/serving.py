"""`subcircuit view` as people start it: a process of its own, its address read from what it prints."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["Serving", "serving"]


class Serving:
    """A server that runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        told = json.loads(_document(process.stdout))
        self.url: str = told["url"]
        self.port: int = told["port"]

    def stop(self, how: int = signal.SIGINT) -> int:
        """Its exit code after this signal."""
        self.process.send_signal(how)
        return self.process.wait(60)


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Serving]:
    command = [sys.executable, "-m", "subcircuit", "view", str(folder), "--no-open", "--json", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield Serving(process)
        finally:
            process.kill()


def _document(lines: IO[str]) -> str:
    text = ""
    for line in lines:
        text += line
        if line == "}\n":
            break
    return text
