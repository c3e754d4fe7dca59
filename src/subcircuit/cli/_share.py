"""`subcircuit push` and `pull`: run folders through the Hugging Face hub."""

import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from subcircuit.cli._exchange import brought, place
from subcircuit.cli._exchanged import Pushed
from subcircuit.cli._shell import Screen
from subcircuit.runs import RunFolder

__all__ = ["pull", "push"]


def push(
    folder: Annotated[Path, typer.Argument(help="run folder", metavar="DIR")],
    repo: Annotated[str, typer.Argument(help="user/name; made where it is not there yet", metavar="REPO")],
    private: Annotated[bool, typer.Option("--private", help="a repository made now is private")] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Send a circuit and its evidence to the Hugging Face hub, with a card."""
    screen = Screen(json=json)
    RunFolder(folder).circuit()
    with screen.logging():
        from subcircuit.circuit import Circuit
        from subcircuit.evaluation import Evidence

        scored = (folder / "evidence.json").is_file()
        evidence = Evidence.load(folder) if scored else None
        commit = Circuit.load(folder).push_to_hub(repo, evidence=evidence, private=private)
    if json:
        screen.emit(Pushed(folder=str(folder), repository=repo, commit=commit, scored=scored))
        return
    screen.out.print(f"{escape(repo)} at commit {commit}", soft_wrap=True)
    if not scored:
        screen.err.print(
            f"its card has no evidence: subcircuit score {escape(str(folder))}, then push again", style="yellow"
        )


def pull(
    repo: Annotated[str, typer.Argument(help="user/name on the hub", metavar="REPO")],
    folder: Annotated[Path, typer.Argument(help="run folder to write", metavar="DIR")],
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the run in the folder")] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Fetch a circuit and its evidence from the Hugging Face hub into a run folder."""
    screen, runs = Screen(json=json), place(folder, overwrite)
    with screen.logging():
        from subcircuit.circuit import Circuit
        from subcircuit.evaluation import Evidence
        from subcircuit.sharing import EVIDENCE, download

        cached, commit = download(repo, revision)
        circuit = Circuit.load(cached)
        scored = (cached / EVIDENCE).is_file()
        if scored:
            Evidence.load(cached)  # refused here, where nothing has been written yet
    origin = circuit.origin.model_copy(update={"shared": f"{repo}@{commit}"})
    brought(circuit.with_origin(origin), runs, screen)
    if scored:
        shutil.copyfile(cached / EVIDENCE, folder / EVIDENCE)
