"""`subcircuit list`: what there is to choose from."""

from typing import Annotated, Any, Literal, cast

import typer
from rich.table import Table

from subcircuit import plugins
from subcircuit.builtin import builtin_models
from subcircuit.cli._outputs import Item, Listing, Setting
from subcircuit.cli._shell import Screen
from subcircuit.errors import UnknownName

__all__ = ["list_"]

WHAT = ("models", "tasks", "methods", "families")


def list_(
    what: Annotated[str, typer.Argument(help=", ".join(WHAT), metavar="WHAT")],
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """What there is to choose from: models, tasks, methods or families."""
    if what not in WHAT:
        raise UnknownName("list", what, WHAT)
    listing = Listing(what=cast(Literal["models", "tasks", "methods", "families"], what), items=_items(what))
    screen = Screen(json=json)
    if json:
        screen.emit(listing)
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for item in listing.items:
        table.add_row(f"[bold]{item.name}[/]", item.about)
    screen.out.print(table)
    if what == "models":
        screen.out.print("\nAlso: any Hugging Face id, local folder or .gguf file of a known family (list families).")
    if what == "tasks":
        screen.out.print("\nAlso: your own prompts in a .jsonl or .csv file.")


def _items(what: str) -> list[Item]:
    if what == "models":
        return [Item(name=name, about=f"{model.about} ({model.licence})") for name, model in builtin_models().items()]
    about = {name: plugins.summary(what, name) for name in plugins.names(what)}
    with_options = what in ("tasks", "methods")
    return [
        Item(name=name, about=text, settings=_settings(what, name) if with_options else [])
        for name, text in about.items()
    ]


def _settings(what: str, name: str) -> list[Setting]:
    options: list[Any] = plugins.options(what, name)
    return [Setting(name=each.name, type=each.type, default=each.default, help=each.help) for each in options]
