"""Loading by hub id: a stand-in hub on this machine serves one tiny model over HTTP, by name."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, ClassVar

import pytest

from tiny import tiny
from tiny_files import save

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REFUSALS = {  # repository -> status and the hub's own word for it
    "made/absent": (401, "RepoNotFound"),
    "made/gated": (403, "GatedRepo"),
}
# The hub's address is read once, at import: hence a process of its own, which loads one name a line.
CHILD = """
import json, sys
from subcircuit.errors import SubcircuitError
from subcircuit.loading import load
for line in sys.stdin:
    name, revision = json.loads(line)
    try:
        subject = load(name, revision=revision, device="cpu")
        weight = subject.model.lm_head.weight.double().sum().item()
        said = {"revision": subject.revision, "weight": weight, "tokens": subject.tokenizer.encode("a b")}
    except SubcircuitError as error:
        said = {"error": type(error).__name__, "exit": error.exit_code, "message": error.message, "cure": error.cure}
    print(json.dumps(said), flush=True)
"""


class Hub(BaseHTTPRequestHandler):
    """The two questions that loading asks a hub: which commit is this, and give me that file of it."""

    folder: ClassVar[Path]

    def do_GET(self) -> None:
        refusal = next((why for name, why in REFUSALS.items() if name in self.path), None)
        if refusal is not None:
            return self._answer(*refusal)
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) in (4, 6):
            if parts[5:] not in ([], ["main"], [COMMIT]):
                return self._answer(404, "RevisionNotFound")
            return self._answer(200, body=json.dumps({"id": "made/tiny", "sha": COMMIT, "siblings": []}).encode())
        file = self.folder / parts[-1]
        if "resolve" in parts and file.is_file():
            return self._answer(200, body=file.read_bytes(), etag=f'"{parts[-1]}-1"')
        return self._answer(404, "EntryNotFound")

    do_HEAD = do_GET  # noqa: N815  # http.server's own spelling

    def _answer(self, status: int, code: str = "", *, body: bytes = b"", etag: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        for name, value in (("X-Error-Code", code), ("ETag", etag)):
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@dataclass
class Loader:
    """A process that loads by name from the stand-in hub."""

    server: ThreadingHTTPServer
    asking: IO[str]
    answers: IO[str]

    def __call__(self, name: str, revision: str | None = None) -> dict[str, Any]:
        self.asking.write(json.dumps([name, revision]) + "\n")
        self.asking.flush()
        answer: dict[str, Any] = json.loads(self.answers.readline())
        return answer

    def unplug(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def by_name(tmp_path: Path) -> Iterator[Loader]:
    Hub.folder = save(tiny("llama"), tmp_path / "tiny")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "HF_ENDPOINT": address,
        "HF_HOME": str(tmp_path / "hf"),
        "NO_PROXY": "127.0.0.1",
    }
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as child:
        assert child.stdin and child.stdout
        yield Loader(server, child.stdin, child.stdout)
        child.stdin.close()
    server.shutdown()


def test_hub_model_by_name_and_every_way_it_can_be_missing(by_name: Loader) -> None:
    """One process for all, as starting it is what takes time."""
    expected = tiny("llama").model.lm_head.weight.double().sum().item()

    loaded = by_name("made/tiny")
    assert loaded == {"revision": COMMIT, "weight": pytest.approx(expected), "tokens": [4, 5]}
    assert by_name("made/tiny", "main") == loaded

    absent = by_name("made/absent")
    assert (absent["error"], absent["exit"]) == ("UsageError", 2)
    assert "the Hugging Face hub has no such model" in absent["message"]
    assert "there are: smollm2-135m" in absent["message"]

    gated = by_name("made/gated")
    assert gated["error"] == "ResourceError" and "'made/gated' is gated" in gated["message"]
    assert "hf auth login" in gated["cure"]

    other = by_name("made/tiny", "v9")
    assert other["error"] == "UsageError" and "'made/tiny' has no revision 'v9'" in other["message"]

    by_name.unplug()
    assert by_name("made/tiny") == loaded  # from the hub's own cache

    start = time.monotonic()
    offline = by_name("smolm2-135m")
    assert time.monotonic() - start < 10  # the hub's client alone would retry for 23 s
    assert offline["error"] == "ResourceError" and "out of reach" in offline["message"]
    assert "did you mean 'smollm2-135m'?" in offline["message"]

    impossible = by_name("no name, this")
    assert impossible["error"] == "UsageError" and "nor can it be the name" in impossible["message"]
