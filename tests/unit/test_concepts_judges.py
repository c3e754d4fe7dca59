"""Judges: a stand-in server that answers by rule, sheets for people, and what goes wrong between."""

import csv
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import tiny_files
from commands import Ask, asking
from subcircuit.concepts import judges as module
from subcircuit.concepts.judges import Endpoint
from subcircuit.concepts.questions import Key, Question, read_sheet, write_sheet
from subcircuit.concepts.verdicts import judged
from subcircuit.errors import DataError, ResourceError, UsageError
from tiny_concepts import FRAME, corpus, spoken, told, write_corpus


class StandIn(ThreadingHTTPServer):
    """Answers 3 to every rating and the first word to every intrusion; keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.codes: list[int] = []  # statuses to give first
        self.reply: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append({"path": self.path, **body})
        self.server.keys.append(self.headers["Authorization"])
        code = self.server.codes.pop(0) if self.server.codes else 200
        text = body["messages"][0]["content"]
        reply = self.server.reply or ("I say 1." if "does not belong" in text else "3")
        payload = json.dumps({"choices": [{"message": {"role": "assistant", "content": reply}}]}).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    return asking(monkeypatch, capsys)


def questions(n: int = 4) -> list[Question]:
    return [Question(number=i, kind="rating", text=f"rate {i}", choices=3) for i in range(1, n + 1)]


def test_replies_are_kept_and_the_key_goes_along(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "secret")
    endpoint = Endpoint(server.url, "model-1", tmp_path, "A_KEY")
    assert endpoint.answers(questions()) == [3, 3, 3, 3]
    assert [each["path"] for each in server.asked] == ["/v1/chat/completions"] * 4
    assert {each["model"] for each in server.asked} == {"model-1"} and set(server.keys) == {"Bearer secret"}
    server.reply = "1"
    assert endpoint.answers(questions(5)) == [3, 3, 3, 3, 1] and len(server.asked) == 5
    assert not any("secret" in path.read_text() for path in tmp_path.iterdir())
    assert Endpoint(server.url, "model-2", tmp_path, "").answers(questions(1)) == [1]
    assert server.keys[-1] is None


@pytest.mark.parametrize(
    ("reply", "answer"),
    [("2", 2), ("My rating: 2.", 2), ("2 of 3", None), ("none", None), ("7", None), ("2, yes, 2", 2)],
)
def test_a_reply_is_one_number_in_range(server: StandIn, tmp_path: Path, reply: str, answer: int | None) -> None:
    server.reply = reply
    assert Endpoint(server.url, "m", tmp_path, "").answers(questions(1)) == [answer]


def test_a_busy_endpoint_is_asked_again(server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    server.codes = [503, 429]
    assert Endpoint(server.url, "m", tmp_path, "").answers(questions(1)) == [3] and len(server.asked) == 3


def test_what_goes_wrong_is_told(server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(UsageError, match="no key in the environment's NO_KEY"):
        Endpoint(server.url, "m", tmp_path, "NO_KEY").answers(questions())
    with pytest.raises(UsageError, match="is no address"):
        Endpoint("file:///etc", "m", tmp_path, "").answers(questions())
    server.codes = [401]
    with pytest.raises(ResourceError, match="answers 401"):
        Endpoint(server.url, "m", tmp_path, "").answers(questions())
    closed = "http://127.0.0.1:9/v1"
    with pytest.raises(ResourceError, match=r"cannot be reached[^\n]*\nstart again as before; the replies so far"):
        Endpoint(closed, "m", tmp_path, "").answers(questions())
    monkeypatch.setattr(module, "_content", lambda reply: module.json.loads("{"))
    with pytest.raises(ResourceError, match="cannot be reached"):
        Endpoint(server.url, "m", tmp_path, "").answers(questions())


def test_sheets_go_out_and_come_back(tmp_path: Path) -> None:
    path, asked = tmp_path / "sheet.csv", questions()
    write_sheet(path, asked)
    rows = list(csv.DictReader(path.open()))
    assert [row["question"] for row in rows] == [question.text for question in asked]
    path.write_text("number,question,answer\n1,,2\n3,, 1 \n2,,\n")
    assert read_sheet(path, asked) == [2, None, 1, None]
    for text, message in {"1,,4": "question 1 of sheet.csv is answered '4'", "9,,1": "a question '9'"}.items():
        path.write_text(f"number,question,answer\n{text}\n")
        with pytest.raises(DataError, match=message):
            read_sheet(path, asked)


def test_verdicts_of_a_table_worked_by_hand() -> None:
    """Two codebooks, two texts, an intruder each; one judge prefers a, the other leaves a question open."""
    keys = [
        *(Key(number=n, codebook=book, item=item) for n, (book, item) in enumerate([("a", 0), ("b", 0), ("a", 1)], 1)),
        Key(number=4, codebook="b", item=1),
        Key(number=5, codebook="a", item=0, right=2),
        Key(number=6, codebook="b", item=0, right=4),
    ]
    found = judged({"x": [3, 1, 3, 2, 2, 1], "y": [2, 1, 3, None, 2, 4]}, keys)
    a, b = found.codebooks["a"], found.codebooks["b"]
    assert a.rating is not None and a.rating.mean == pytest.approx(((3 + 2) / 2 + 3) / 2) and a.unread == 0
    assert b.rating is not None and b.rating.mean == pytest.approx((1 + 2) / 2) and b.unread == 1
    assert a.intruders is not None and a.intruders.mean == 1 and b.intruders is not None and b.intruders.mean == 0.5
    assert found.w == pytest.approx(1.0) and found.w_chance == pytest.approx(0.5, abs=0.02) and found.chance == 0.2
    alone = judged({"x": [3, 1, 3, 2, 2, 1]}, keys)
    assert alone.alpha is None and alone.w is None


def test_judge_end_to_end(server: StandIn, tmp_path: Path, ask: Ask) -> None:
    tiny_files.save(spoken(), tmp_path / "model")
    texts = write_corpus(tmp_path / "texts.csv", told(spoken(), corpus(120)))
    labels = [f"--label={label}={word}" for label, word in FRAME.labels.items()]
    for seed in (0, 1):
        common = ["--model", tmp_path / "model", "--texts", texts, "--template", FRAME.template, *labels]
        more = ["--layer", 1, "--codes", 6, "--seed", seed, "--states", tmp_path / "states"]
        assert ask("concepts", "fit", "kmeans", *common, *more, "--out", tmp_path / f"book-{seed}").code == 0
    words = ["concepts", "judge", tmp_path / "book-0", tmp_path / "book-1", "--texts", texts, "--limit", 5]
    words += ["--intrusions", 3, "--out", tmp_path / "judging"]
    answer = ask(*words, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["judged"] is None and answer.json["questions"] >= 10
    sheet = tmp_path / "judging" / "sheet.csv"
    rows = list(csv.DictReader(sheet.open()))
    assert not any("book" in row["question"] or "kmeans" in row["question"] for row in rows)  # blind
    with (tmp_path / "me.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["number", "question", "answer"], *([row["number"], "", 1] for row in rows)])
    asked = ["--endpoint", server.url, "--key-variable", "", "--by", "m-1", "--answers", tmp_path / "me.csv"]
    answer = ask(*words, *asked, "--json")
    assert answer.code == 0, answer.err
    found = answer.json["judged"]
    assert found["judges"] == ["me.csv", "m-1"]
    assert all(verdict["rating"]["mean"] == 2.0 for verdict in found["codebooks"].values())
    assert found["alpha"] < 0  # the two never agree
    keys = {row["number"]: row for row in json.loads((tmp_path / "judging" / "key.json").read_text())}
    for name, verdict in found["codebooks"].items():
        mine = [key["right"] == 1 for key in keys.values() if key["codebook"] == name and key["right"]]
        if mine:
            assert verdict["intruders"]["mean"] == pytest.approx(sum(mine) / len(mine))
    assert "Krippendorff" in ask(*words, *asked).out
    other = ask(*words[:3], "--texts", texts, "--out", tmp_path / "judging")
    assert other.code == 2 and "give another --out" in other.err
    assert "there is no endpoint" in ask(*words, "--by", "m-1").err
