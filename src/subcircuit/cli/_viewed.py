"""What `subcircuit view` serves: a run, a codebook or an attribution graph, each with its model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from subcircuit.cli._concepts import load_model
from subcircuit.cli._model import model_of
from subcircuit.cli._progress import shown
from subcircuit.cli._shell import Screen
from subcircuit.errors import DataError, SubcircuitError, UsageError
from subcircuit.graphs.records import GRAPH, GraphFile
from subcircuit.records import Origin
from subcircuit.runs import RunFolder

if TYPE_CHECKING:
    from fastapi import FastAPI

    from subcircuit.prompts import Prompts
    from subcircuit.subject import Subject
    from subcircuit.tasks._base import Task

__all__ = ["Choices", "Viewable", "application", "kind_of"]

Viewable = Literal["run", "codebook", "graph"]
CODEBOOK = "codebook.json"  # what `concepts fit` writes
WINDOW, MOST = 64, 256  # tokens of a text that means are taken over, and how many such windows


@dataclass(frozen=True)
class Choices:
    """What the command line says besides the folder."""

    circuit: Path | None
    transcoders: Path | None
    texts: Path | None
    device: str
    force: bool


def kind_of(folder: Path, choices: Choices) -> Viewable:
    """What the folder holds. Raises what it is refused for before a model is loaded."""
    kind: Viewable = "graph" if (folder / GRAPH).is_file() else "codebook" if (folder / CODEBOOK).is_file() else "run"
    of = {"--circuit": (choices.circuit, "codebook"), "--transcoders": (choices.transcoders, "graph")}
    of["--texts"] = (choices.texts, "graph")
    for option, (given, owner) in of.items():
        if given is not None and owner != kind:
            raise UsageError(f"{option} is of a {owner}, and {folder} holds a {kind}", f"leave {option} out")
    if kind == "codebook" and choices.force:
        raise UsageError("--force is not of codebooks: concepts are directions of one model", "leave it out")
    if kind == "run":
        RunFolder(folder).circuit()
    if kind == "graph":
        _transcoders_of(GraphFile.read(folder), choices)
    return kind


def application(kind: Viewable, folder: Path, choices: Choices, token: str, port: int, screen: Screen) -> "FastAPI":
    """The page and its calls, with the model loaded."""
    made = {"run": _run, "codebook": _codebook, "graph": _graph}[kind]
    return made(folder, choices, token, port, screen)


def _run(folder: Path, choices: Choices, token: str, port: int, screen: Screen) -> "FastAPI":
    from subcircuit.circuit import Circuit
    from subcircuit.report import page, payload
    from subcircuit.view import Question, Session
    from subcircuit.view.desk import Desk
    from subcircuit.view.server import app

    circuit = Circuit.load(folder)
    with shown(screen.err, quiet=screen.quiet) as progress:
        subject = model_of(circuit.origin, choices.device, choices.force, screen, progress)
    task, absent = _task(circuit.origin)
    session = Session(subject, circuit, task, folder=str(folder), absent=absent)
    html = page(*payload(str(folder)), live=session.about)
    return app(Desk(Question, session.answer), lambda: html, token=token, port=port)


def _codebook(folder: Path, choices: Choices, token: str, port: int, screen: Screen) -> "FastAPI":
    from subcircuit.concepts.scores import ScoreFile
    from subcircuit.concepts.study import Study
    from subcircuit.view.concept_questions import ConceptQuestion
    from subcircuit.view.concepts import ConceptSession
    from subcircuit.view.desk import Desk
    from subcircuit.view.naming import NamedPage
    from subcircuit.view.server import app

    study, score = Study.load(folder), ScoreFile.load(folder)
    with shown(screen.err, quiet=screen.quiet) as progress:
        subject = load_model(study.book.about, choices.device, screen, progress)
    session = ConceptSession(subject, study, [row.text for row in score.faithfulness.rows] if score else [])
    named = NamedPage(folder, study.book, session.about, str(choices.circuit) if choices.circuit else None)
    return app(Desk(ConceptQuestion, session.answer), named.html, token=token, port=port, more=named.calls)


def _graph(folder: Path, choices: Choices, token: str, port: int, screen: Screen) -> "FastAPI":
    from subcircuit.features.transcoders import read_transcoders
    from subcircuit.graphs.files import load_graph
    from subcircuit.report.graphs import graph_payload
    from subcircuit.report.page import page
    from subcircuit.view.desk import Desk
    from subcircuit.view.graph_questions import GraphQuestion
    from subcircuit.view.graphs import GraphSession
    from subcircuit.view.server import app

    file, graph = GraphFile.read(folder), load_graph(folder)
    transcoders = read_transcoders(_transcoders_of(file, choices))
    subject = _model_of_graph(file, choices, screen)
    session = GraphSession(subject, transcoders, file, graph, texts=_texts(subject, choices.texts))
    html = page(*graph_payload(str(folder)), live=session.about)
    return app(Desk(GraphQuestion, session.answer), lambda: html, token=token, port=port)


def _task(origin: Origin) -> "tuple[Task | None, str]":
    """The task, or why it is not at hand: the model answers to other prompts all the same."""
    from subcircuit.tasks._resolve import task

    options = {name: value for name, value in origin.task_options.items() if name != "path"}
    try:
        return task(origin.task, **options), ""
    except SubcircuitError as error:
        return None, error.message


def _transcoders_of(file: GraphFile, choices: Choices) -> Path:
    """Their folder. Raises DataError where it is gone."""
    folder = choices.transcoders or Path(file.transcoders.get("folder", "transcoders"))
    if not folder.is_dir():
        raise DataError(
            f"the transcoders of the graph are not in {folder}", "bring them back, or say where: --transcoders DIR"
        )
    return folder


def _model_of_graph(file: GraphFile, choices: Choices, screen: Screen) -> "Subject":
    """Raises DataError when its weights are others by now, unless they are to be taken all the same."""
    from subcircuit.loading import load

    screen.silence_transformers()
    local = file.revision.startswith("sha256:")
    revision = None if local or choices.force else file.revision or None
    with shown(screen.err, quiet=screen.quiet) as progress:
        subject = load(file.model, revision=revision, device=choices.device, progress=progress)
    if subject.revision != file.revision and not choices.force:
        raise DataError(
            f"{file.model} has other weights than those the graph was made of: {subject.revision}, not "
            f"{file.revision or 'any that the file names'}",
            "bring back the weights, make the graph again, or go on with these weights: --force",
        )
    return subject


def _texts(subject: "Subject", path: Path | None) -> "Prompts | None":
    if path is None:
        return None
    from subcircuit.features.documents import read_texts, windows

    return windows(read_texts(path), subject.tokenizer, WINDOW)[:MOST].prompts()
