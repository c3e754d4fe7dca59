"""`subcircuit concepts label`: what a concept is called by people."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from subcircuit.cli._shell import Screen

__all__ = ["label"]


def label(
    folder: Annotated[Path, typer.Argument(help="folder of a codebook", metavar="DIR")],
    identity: Annotated[str, typer.Argument(help="of the concept, as the report shows it", metavar="ID")],
    text: Annotated[str, typer.Argument(help="what to call it; '' takes the label away", metavar="TEXT")],
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Give a concept a label of your own, kept in DIR/labels.json."""
    from subcircuit.cli._concepts_told import Labelled
    from subcircuit.concepts.labels import Labels, find_concept
    from subcircuit.concepts.study import Study

    study, before = Study.load(folder), Labels.load(folder) or Labels()
    code, found = find_concept(study.book, identity)
    after = before.given(found, text)
    after.save(folder)
    screen = Screen(json=json)
    given = after.labels.get(found, "")
    if json:
        screen.emit(Labelled(folder=str(folder), id=found, code=code, label=given, labels=len(after.labels)))
        return
    name = " ".join(study.catalogue.concepts[code].name)
    screen.out.print(escape(f"{found} (concept {code}, {name}): {given or 'no label'}"), soft_wrap=True)
