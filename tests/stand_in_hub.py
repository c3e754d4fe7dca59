"""A stand-in for the Hugging Face hub that takes commits and gives files back, over HTTP."""

import base64
import json
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

__all__ = ["Hub", "commit"]


class Hub(BaseHTTPRequestHandler):
    """What pushing and pulling ask of a hub. Commits are numbered; every one keeps all files of its repository."""

    commits: ClassVar[list[tuple[str, dict[str, bytes]]]] = []  # repository, its files
    visibility: ClassVar[dict[str, Any]] = {}

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            asked = json.loads(sent)
            name = f"{asked['organization'] or 'me'}/{asked['name']}"
            if name == "theirs/circuit":
                return self._answer(403, json.dumps({"error": "You don't have the rights"}))
            known = name in self.visibility
            self.visibility.setdefault(name, asked)
            return self._answer(409 if known else 200, json.dumps({"url": f"{self._root}/{name}"}))
        if path == "/api/validate-yaml":
            return self._answer(200, json.dumps({"errors": [], "warnings": []}))
        repo = "/".join(path.split("/")[3:5])
        if "/preupload/" in path:
            files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(sent)["files"]]
            return self._answer(200, json.dumps({"files": files}))
        if "/commit/" in path:
            lines = [json.loads(line) for line in sent.splitlines()]
            files = {each["value"]["path"]: each["value"]["content"] for each in lines if each["key"] == "file"}
            before = self._files(repo, "main") or {}
            decoded = {name: base64.b64decode(content) for name, content in files.items()}
            self.commits.append((repo, before | decoded))
            made = commit(len(self.commits))
            answer = {"commitUrl": f"{self._root}/{repo}/commit/{made}", "commitOid": made, "success": True}
            return self._answer(200, json.dumps(answer))
        return self._answer(404, "{}")

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repo, revision = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main"
            if not any(name == repo for name, _ in self.commits):
                return self._answer(401, "{}", code="RepoNotFound")
            files = self._files(repo, revision)
            if files is None:
                return self._answer(404, "{}", code="RevisionNotFound")
            siblings = [{"rfilename": name} for name in files]
            return self._answer(200, json.dumps({"id": repo, "sha": self._sha(repo, revision), "siblings": siblings}))
        if parts[2:3] != ["resolve"]:
            return self._answer(404, "{}")
        repo, revision, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        found = (self._files(repo, revision) or {}).get(name)
        if found is None:
            return self._answer(404, code="EntryNotFound", commit=self._sha(repo, revision))
        return self._answer(200, found, etag=f'"{hash(found):x}"', commit=self._sha(repo, revision))

    do_HEAD = do_GET  # noqa: N815  # http.server's own spelling

    @property
    def _root(self) -> str:
        return f"http://{self.headers['Host']}"

    def _sha(self, repo: str, revision: str) -> str:
        own = [commit(place) for place, (name, _) in enumerate(self.commits, start=1) if name == repo]
        return own[-1] if own and revision == "main" else revision

    def _files(self, repo: str, revision: str) -> dict[str, bytes] | None:
        sha = self._sha(repo, revision)
        numbered = enumerate(self.commits, start=1)
        return next((files for place, (name, files) in numbered if name == repo and commit(place) == sha), None)

    def _answer(
        self, status: int, body: str | bytes = b"", *, code: str = "", etag: str = "", commit: str = ""
    ) -> None:
        body = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (("X-Error-Code", code), ("ETag", etag), ("X-Repo-Commit", commit)):
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


def commit(place: int) -> str:
    return f"{place:040x}"
