"""The live view over HTTP: who is let in, what is answered, the line, and what happens when somebody leaves it."""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason='pip install "subcircuit[view]"')

from fastapi import FastAPI
from fastapi.testclient import TestClient

from live import Live
from subcircuit.errors import Interrupted, ResourceError
from subcircuit.report import page, payload
from subcircuit.view import Answer, Change, Question
from subcircuit.view.desk import MOST_WAITING, Desk
from subcircuit.view.server import app, bound

TOKEN, PORT = "a-token", 8123
OWN = f"http://127.0.0.1:{PORT}"


@pytest.fixture(scope="module")
def served(study: Live) -> Iterator[FastAPI]:
    html = page(*payload(str(study.folder)), live=study.session.about)
    desk = Desk(Question, study.session.answer)
    yield app(desk, lambda: html, token=TOKEN, port=PORT)
    desk.close()


@pytest.fixture
def client(served: FastAPI) -> TestClient:
    return TestClient(served, base_url=f"{OWN}/{TOKEN}/")


def finished(work: Coroutine[Any, Any, None]) -> None:
    """Run in a thread of its own: this one may have an event loop running, Playwright's."""
    with ThreadPoolExecutor(1) as apart:
        apart.submit(asyncio.run, work).result()


def body(study: Live, **changes: Any) -> dict[str, Any]:
    return {"question": study.question(**changes).model_dump()}


def test_it_answers_what_the_session_says(study: Live, client: TestClient) -> None:
    question = study.question(changes=[Change(nodes=["1.head.2"], amount=0.25, fill="corrupt")])
    reply = client.post("api/ask", json={"question": question.model_dump()}, headers={"origin": OWN})
    found, expected = Answer(**reply.json()), study.session.answer(question)
    assert reply.status_code == 200
    assert found.model_copy(update={"milliseconds": 0.0}) == expected.model_copy(update={"milliseconds": 0.0})
    (latest, *_) = client.get("api/history").json()
    assert latest["summary"] == "1.head.2 x 0.25 (corrupt)" and latest["answer"]["kl"] == expected.kl
    client.post("api/ask", json={"question": question.model_dump(), "remembered": False})
    assert client.get("api/history").json()[0]["number"] == latest["number"]
    assert client.get("api/queue").json() == []


def test_the_page_may_ask_nobody_but_its_server(client: TestClient) -> None:
    reply = client.get("")
    assert reply.status_code == 200 and 'id="live"' in reply.text
    assert "default-src 'none'" in reply.text and "connect-src 'self'" in reply.text
    assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
    assert reply.headers["cache-control"] == "no-store" and reply.headers["referrer-policy"] == "no-referrer"


def test_a_name_cannot_end_the_block_it_is_in(study: Live) -> None:
    evil = study.session.about.model_copy(update={"model": "</script><script>alert(1)</script>"})
    assert "<script>alert" not in page(*payload(str(study.folder)), live=evil)


STRANGERS: list[tuple[str, dict[str, str]]] = [
    ("/", {}),
    ("/favicon.ico", {}),
    ("/wrong-token/", {}),
    (f"/{TOKEN}x/", {}),
    (f"/{TOKEN[:-1]}/", {}),
    (f"//{TOKEN}/", {}),
    ("/api/history", {}),
    (f"/{TOKEN}/", {"host": "evil.example"}),
    (f"/{TOKEN}/", {"host": f"evil.example:{PORT}"}),
    (f"/{TOKEN}/", {"host": "127.0.0.1"}),
    (f"/{TOKEN}/", {"host": f"127.0.0.1:{PORT + 1}"}),
    (f"/{TOKEN}/", {"host": f"127.0.0.1.evil.example:{PORT}"}),
    (f"/{TOKEN}/api/history", {"origin": "http://evil.example"}),
    (f"/{TOKEN}/api/history", {"origin": "null"}),
    (f"/{TOKEN}/api/history", {"origin": f"http://localhost:{PORT}"}),
    (f"/{TOKEN}/api/history", {"origin": f"https://127.0.0.1:{PORT}"}),
]


@pytest.mark.parametrize(("path", "headers"), STRANGERS)
def test_strangers_are_turned_away(served: FastAPI, path: str, headers: dict[str, str]) -> None:
    reply = TestClient(served, base_url=OWN).request("GET", OWN + path, headers=headers)
    assert (reply.status_code, reply.text) == (403, "forbidden")


def test_localhost_is_this_machine_too(served: FastAPI) -> None:
    origin = f"http://localhost:{PORT}"
    reply = TestClient(served, base_url=origin).get(f"/{TOKEN}/api/queue", headers={"origin": origin})
    assert reply.status_code == 200


TRICKS = ("../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "....//etc/passwd", "/etc/passwd")
TRICKS = (*TRICKS, "circuit.json", "static/viewer.js", "api/../../circuit.json", "docs", "openapi.json", "api/ask%00")


@pytest.mark.parametrize("trick", TRICKS)
def test_no_path_leads_to_a_file(served: FastAPI, trick: str) -> None:
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": f"/{TOKEN}/{trick}", "query_string": b""}
    scope |= {"headers": [(b"host", f"127.0.0.1:{PORT}".encode())], "http_version": "1.1", "scheme": "http"}
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        said.append(message)

    finished(served(scope, receive, send))  # as it is: clients tidy paths up
    assert said[0]["status"] in (404, 405)
    assert b"root:" not in b"".join(each.get("body", b"") for each in said)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"changes": [{"nodes": ["1.head.9"]}]}, "there is no node 1.head.9"),
    ({"clean": "a " * 3000}, "has 3000 tokens"),
    ({"clean": "a" * 30_000}, "at most 20000 characters"),
    ({"changes": [{"nodes": ["1.head.0"], "amount": 1e9}]}, "less than or equal to 100"),
    ({"changes": [{"nodes": ["1.head.0"], "fill": "noise"}]}, "'zero', 'corrupt', 'mean'"),
    ({"top": 0}, "greater than or equal to 1"),
    ({"unheard": 1}, "Extra inputs are not permitted"),
]


@pytest.mark.parametrize(("changes", "said"), BAD)
def test_bad_questions_are_told_why(study: Live, client: TestClient, changes: dict[str, Any], said: str) -> None:
    whole = study.question().model_dump() | changes
    reply = client.post("api/ask", json={"question": whole})
    assert reply.status_code == 422 and said in reply.json()["message"] and reply.json()["cure"]


def test_bodies_are_small_and_say_so(client: TestClient) -> None:
    assert client.post("api/ask", content=b"x" * (1 << 21)).status_code == 413
    assert client.post("api/ask", content=iter([b"{}"])).status_code == 413
    reply = client.post("api/ask", content=b"{not json", headers={"content-type": "application/json"})
    assert reply.status_code == 422


class Slow:
    """A model that answers when it is let."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.let, self.begun = answer, threading.Event(), threading.Semaphore(0)
        self.order: list[str] = []

    def __call__(self, question: Question, stopped: Callable[[], bool]) -> Answer:
        self.order.append(question.clean)
        self.begun.release()
        while not self.let.wait(0.01):
            if stopped():
                raise Interrupted("cancelled")
        return self.answer


@pytest.fixture
def slow(study: Live) -> Slow:
    return Slow(study.session.answer(study.question()))


def test_questions_are_answered_in_the_order_they_came(slow: Slow) -> None:
    desk = Desk(Question, slow)
    jobs = [desk.submit(Question(clean=text), name=text) for text in "abc"]
    slow.begun.acquire(timeout=5)
    assert [(each.id, each.running) for each in desk.waiting] == [("a", True), ("b", False), ("c", False)]
    assert desk.cancel("b") and not desk.cancel("b") and not desk.cancel("nobody")
    slow.let.set()
    assert jobs[0].answer.result(5) == jobs[2].answer.result(5) == slow.answer
    assert jobs[1].answer.cancelled() and slow.order == ["a", "c"]
    assert [entry.summary for entry in desk.history] == ["the model as it is"] * 2 and desk.waiting == []
    desk.close()


def test_what_runs_can_be_cancelled(slow: Slow) -> None:
    desk = Desk(Question, slow)
    job = desk.submit(Question(clean="a"), name="a")
    slow.begun.acquire(timeout=5)
    desk.cancel("a")
    with pytest.raises(Interrupted):
        job.answer.result(5)
    slow.let.set()
    assert desk.submit(Question(clean="b")).answer.result(5) == slow.answer
    desk.close()


def test_the_line_has_an_end(slow: Slow) -> None:
    desk = Desk(Question, slow)
    for _ in range(MOST_WAITING):
        desk.submit(Question(clean="a"))
    with pytest.raises(ResourceError, match="questions are waiting"):
        desk.submit(Question(clean="a"))
    desk.close()
    assert desk.waiting == []


def test_two_browsers_at_once(study: Live, client: TestClient) -> None:
    questions = [study.question(changes=[Change(nodes=["1.head.2"], amount=step / 8)]) for step in range(8)]
    with ThreadPoolExecutor(4) as browsers:
        posts = [browsers.submit(client.post, "api/ask", json={"question": each.model_dump()}) for each in questions]
        wait(posts)
    for question, post in zip(questions, posts, strict=True):
        assert post.result().json()["kl"] == study.session.answer(question).kl


@pytest.mark.parametrize("waiting", [False, True])
def test_a_browser_that_hangs_up_has_cancelled(slow: Slow, study: Live, waiting: bool) -> None:
    """Driven as the server drives it: the body arrives, then the connection ends."""
    desk = Desk(Question, slow)
    served = app(desk, str, token=TOKEN, port=PORT)
    first = desk.submit(Question(clean="first")) if waiting else None
    content = study.question().model_dump_json().join(['{"question":', "}"]).encode()
    messages = [{"type": "http.request", "body": content, "more_body": False}, {"type": "http.disconnect"}]
    headers = {"host": f"127.0.0.1:{PORT}", "content-type": "application/json", "content-length": str(len(content))}
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": f"/{TOKEN}/api/ask", "query_string": b""}
    scope |= {"headers": [(key.encode(), value.encode()) for key, value in headers.items()], "http_version": "1.1"}
    said: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0) if len(messages) > 1 else messages[0]

    async def send(message: Any) -> None:
        said.append(message)

    finished(asyncio.wait_for(served(scope, receive, send), 5))
    assert said[0]["status"] == 409
    assert [job.question.clean for job in desk._jobs.values()] == (["first"] if waiting else [])
    slow.let.set()
    assert desk.submit(Question(clean="next")).answer.result(5) == slow.answer
    assert first is None or first.answer.result(5) == slow.answer
    desk.close()


def test_a_port_in_use_is_named() -> None:
    with bound(0) as first:
        assert first.getsockname()[0] == "127.0.0.1"
        with pytest.raises(ResourceError, match=r"port \d+ cannot be used: Address already in use") as refused:
            bound(first.getsockname()[1])
    assert "--port" in refused.value.cure


def test_nothing_listens_beyond_this_machine(tmp_path: Path) -> None:
    with bound(0) as place, socket.socket() as other:
        other.settimeout(2)
        with pytest.raises(OSError):  # noqa: PT011  # refused, or no such way
            other.connect(
                (socket.gethostbyname(socket.gethostname()).replace("127.0.0.1", "127.0.0.2"), place.getsockname()[1])
            )
