"""Labels over HTTP: kept beside the codebook, on the page from then on, refused to strangers and for no concept."""

import json

import pytest

pytest.importorskip("fastapi", reason='pip install "subcircuit[view]"')

from fastapi.testclient import TestClient

from live_concepts import LiveConcepts
from subcircuit.concepts.labels import Labels, concept_ids
from subcircuit.report.concepts import concept_payload
from subcircuit.report.page import page
from subcircuit.view.concept_questions import ConceptAnswer, ConceptQuestion
from subcircuit.view.desk import Desk
from subcircuit.view.naming import NamedPage
from subcircuit.view.server import app

TOKEN, PORT = "a-token", 8124
OWN = f"http://127.0.0.1:{PORT}"


@pytest.fixture
def client(concepts: LiveConcepts) -> TestClient:
    (concepts.folder / Labels.FILE).unlink(missing_ok=True)
    named = NamedPage(concepts.folder, concepts.study.book, concepts.session.about)
    desk = Desk(ConceptQuestion, concepts.session.answer)
    served = app(desk, named.html, token=TOKEN, port=PORT, more=named.calls)
    return TestClient(served, base_url=f"{OWN}/{TOKEN}/")


def test_a_question_is_answered_and_remembered(concepts: LiveConcepts, client: TestClient) -> None:
    question = ConceptQuestion(text="a b c", code=2)
    reply = client.post("api/ask", json={"question": question.model_dump()})
    found, expected = ConceptAnswer(**reply.json()), concepts.session.answer(question)
    assert found.model_copy(update={"milliseconds": 0.0}) == expected.model_copy(update={"milliseconds": 0.0})
    (entry,) = client.get("api/history").json()
    assert entry["summary"] == "without concept 2 from the text to the judged token"
    assert entry["question"] == question.model_dump() and entry["answer"]["code"] == 2
    wrong = client.post("api/ask", json={"question": {"text": "a", "where": "nowhere"}})
    assert wrong.status_code == 422 and "question.where" in wrong.json()["message"]


def test_a_label_is_on_the_page_as_if_it_was_made_anew(concepts: LiveConcepts, client: TestClient) -> None:
    first, second = concept_ids(concepts.study.book)[:2]
    Labels(labels={second: "from elsewhere"}).save(concepts.folder)  # after the start: by a command, say
    reply = client.put(f"api/labels/{first}", json={"label": " early </script> "})
    assert reply.json() == {first: "early </script>", second: "from elsewhere"}
    assert json.loads((concepts.folder / "labels.json").read_text())["labels"] == reply.json()
    told = client.get("").text
    assert told == page(*concept_payload(str(concepts.folder)), live=concepts.session.about)
    assert client.put(f"api/labels/{first}", json={"label": ""}).json() == {second: "from elsewhere"}


@pytest.mark.parametrize(("path", "said"), [("ffffffffffff", "0 concepts have an id"), ("ab", "is too short")])
def test_no_label_for_no_concept(concepts: LiveConcepts, client: TestClient, path: str, said: str) -> None:
    reply = client.put(f"api/labels/{path}", json={"label": "x"})
    assert reply.status_code == 422 and said in reply.json()["message"]
    assert not (concepts.folder / Labels.FILE).exists()


def test_strangers_give_no_labels(concepts: LiveConcepts, client: TestClient) -> None:
    path = f"api/labels/{concept_ids(concepts.study.book)[0]}"
    assert client.put(path, json={"label": "x"}, headers={"origin": "http://evil.example"}).status_code == 403
    assert client.put(f"{OWN}/other-token/{path}", json={"label": "x"}).status_code == 403
    assert client.put(path, json={"label": "x" * 201}).status_code == 422
    assert not (concepts.folder / Labels.FILE).exists()


def test_a_broken_file_is_told_and_stays(concepts: LiveConcepts, client: TestClient) -> None:
    (concepts.folder / Labels.FILE).write_text("{")
    reply = client.put(f"api/labels/{concept_ids(concepts.study.book)[0]}", json={"label": "x"})
    assert reply.status_code == 422 and "labels.json" in reply.json()["message"] and reply.json()["cure"]
    assert (concepts.folder / Labels.FILE).read_text() == "{"
