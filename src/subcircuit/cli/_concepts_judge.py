"""`subcircuit concepts judge`: whose concepts explain better, asked of judges who cannot know whose they are."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from subcircuit.cli._concepts import load_model
from subcircuit.cli._progress import shown
from subcircuit.cli._shell import Screen, stoppable
from subcircuit.errors import DataError, UsageError
from subcircuit.progress import Progress

if TYPE_CHECKING:
    from subcircuit.concepts.questions import Key, Question

__all__ = ["judge"]

QUESTIONS, KEY, SHEET, REPLIES = "questions.json", "key.json", "sheet.csv", "replies"


def judge(
    folders: Annotated[list[Path], typer.Argument(help="folders of codebooks of one model", metavar="DIR DIR ...")],
    texts: Annotated[Path, typer.Option(help="texts to explain")],
    out: Annotated[Path, typer.Option(help="folder for questions, key, sheet and replies")],
    limit: Annotated[int, typer.Option(help="texts that are asked about", min=1)] = 20,
    intrusions: Annotated[int, typer.Option(help="intruders hidden in each codebook", min=0)] = 10,
    endpoint: Annotated[str, typer.Option(help="OpenAI-compatible, as in http://localhost:8000/v1")] = "",
    by: Annotated[list[str] | None, typer.Option(help="model there; may be repeated", metavar="MODEL")] = None,
    key_variable: Annotated[
        str, typer.Option(help="environment variable that holds the key; '' sends none")
    ] = "OPENAI_API_KEY",
    answers: Annotated[list[Path] | None, typer.Option(help="a sheet that a person filled in; may be repeated")] = None,
    seed: Annotated[int, typer.Option(help="of the order and the intruders", min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress, no notes")] = False,
) -> None:
    """Whose concepts explain answers better, asked of models and people who cannot know whose they are.

    The first call writes the questions, and `sheet.csv` for people; later ones ask the very same.
    """
    if by and not endpoint:
        raise UsageError(f"'{by[0]}' is to be asked, and there is no endpoint", "give --endpoint URL")
    screen = Screen(json=json, quiet=quiet)
    with screen.logging(), stoppable(), shown(screen.err, quiet=quiet) as progress:
        from subcircuit.cli._concepts_told import Judging, tell_judged
        from subcircuit.concepts.judges import Endpoint
        from subcircuit.concepts.questions import read_sheet
        from subcircuit.concepts.verdicts import judged

        if not (out / QUESTIONS).exists():
            _write(folders, texts, out, limit, intrusions, seed, device, screen, progress)
        questions, keys = _read(out, folders)
        found = {path.name: read_sheet(path, questions) for path in answers or []}
        for model in by or []:
            asked = Endpoint(endpoint, model, out / REPLIES, key_variable)
            found[model] = asked.answers(questions, progress=progress)
        verdict = judged(found, keys, seed) if found else None
    judging = Judging(folder=str(out), questions=len(questions), sheet=str(out / SHEET), judged=verdict)
    screen.emit(judging) if json else tell_judged(judging, screen)


def _write(
    folders: list[Path],
    texts: Path,
    out: Path,
    limit: int,
    intrusions: int,
    seed: int,
    device: str,
    screen: Screen,
    progress: Progress,
) -> None:
    """Explain the texts by every codebook, and write the questions."""
    from subcircuit.concepts.explaining import Explained, explain
    from subcircuit.concepts.questions import Key, Question, ask, write_sheet
    from subcircuit.concepts.study import Study
    from subcircuit.concepts.texts import read_corpus

    studies = {str(folder): Study.load(folder) for folder in folders}
    corpus = read_corpus(texts).first(limit)
    subject = load_model(next(iter(studies.values())).book.about, device, screen, progress)
    explained: dict[str, Sequence[Explained]] = {
        name: explain(subject, study, corpus.texts, words=1, writing=0, progress=progress)
        for name, study in studies.items()
    }
    questions, keys = ask(studies, explained, intrusions=intrusions, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    write_sheet(out / SHEET, questions)
    (out / KEY).write_bytes(TypeAdapter(list[Key]).dump_json(keys, indent=1))
    (out / QUESTIONS).write_bytes(TypeAdapter(list[Question]).dump_json(questions, indent=1))


def _read(out: Path, folders: list[Path]) -> "tuple[list[Question], list[Key]]":
    from subcircuit.concepts.questions import Key, Question

    try:
        questions = TypeAdapter(list[Question]).validate_json((out / QUESTIONS).read_bytes())
        keys = TypeAdapter(list[Key]).validate_json((out / KEY).read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(f"the questions in {out} cannot be read: {error}", "remove the folder and ask anew") from error
    asked = {key.codebook for key in keys}
    if asked != {str(folder) for folder in folders}:
        raise UsageError(f"the questions in {out} are about {', '.join(sorted(asked))}", "give another --out")
    return questions, keys
