"""From a dataclass's fields to options of the command line, and back. Reads source text only; imports no torch."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any

import typer

from subcircuit import plugins
from subcircuit.errors import UnknownName, UsageError
from subcircuit.plugins import Option
from subcircuit.tasks import in_file

__all__ = ["parameters", "signed", "task_options"]

TYPES: Mapping[str, type] = {"int": int, "float": float, "str": str, "bool": bool}
TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parameters(method: str, table: str = "methods") -> list[inspect.Parameter]:
    """A method's settings as parameters of a typer command. Those that are not given come as None."""
    found = [_parameter(option) for option in plugins.options(table, method)]
    presets = plugins.presets(table, method)
    if presets:
        told = "; ".join(f"{name}: {text}" for name, text in presets.items())
        found.append(_keyword("preset", str | None, typer.Option("--preset", help=told, rich_help_panel="Settings")))
    return found


def signed(verb: Callable[..., None], extra: Sequence[inspect.Parameter]) -> Callable[..., None]:
    """The verb, with `extra` in the place of its `**settings` for those who look at its signature."""
    own = [each for each in inspect.signature(verb).parameters.values() if each.kind is not each.VAR_KEYWORD]

    def command(**given: Any) -> None:
        verb(**given)

    every = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *extra)]
    command.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in every}
    return command


def task_options(task: str, given: Sequence[str], drop_bad: bool) -> dict[str, Any]:
    """`k=v` options of a task as values of the right type.

    Raises UnknownName for an unknown task, UsageError for an option or a value that the task does not know, and for a
    prompts file that is not there.
    """
    if found := in_file(task):
        if not found[1].is_file():
            raise UsageError(f"there is no file {found[1]}", "check the path of the prompts file")
        if given:
            raise UsageError(f"{task} is a prompts file and has no options", "leave out --task-option")
        return {"drop_bad": True} if drop_bad else {}
    known = {option.name: option for option in plugins.options("tasks", task)}
    if drop_bad:
        raise UsageError(f"--drop-bad is for prompts files, and '{task}' is a built-in task", "leave it out")
    return dict(_task_option(task, text, known) for text in given)


def _task_option(task: str, text: str, known: Mapping[str, Option]) -> tuple[str, Any]:
    spelled, equals, value = text.partition("=")
    name = spelled.strip().replace("-", "_")
    if not equals:
        raise UsageError(f"the task option '{text}' has no value", "write --task-option name=value")
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ";"
        raise UsageError(f"task '{task}' has no option '{spelled}'{hint} it has: {', '.join(known) or 'none'}")
    kind, _ = _type(known[name])
    if kind is bool:
        if value.lower() not in TRUTH:
            raise UnknownName(f"value of {name}", value, TRUTH)
        return name, TRUTH[value.lower()]
    try:
        return name, kind(value)
    except ValueError as error:
        raise UsageError(f"task option {name} is '{value}'", f"give a value of type {kind.__name__}") from error


def _parameter(option: Option) -> inspect.Parameter:
    kind, _ = _type(option)
    spelled = option.name.replace("_", "-")
    names = f"--{spelled}/--no-{spelled}" if kind is bool else f"--{spelled}"
    default = False if option.default in (None, "") else str(option.default)
    told = typer.Option(names, help=option.help, show_default=default, rich_help_panel="Settings")
    return _keyword(option.name, kind | None, told)


def _keyword(name: str, kind: Any, told: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, told])


def _type(option: Option) -> tuple[type, bool]:
    """The type of an option's values, and whether it may be None."""
    names = [name.strip() for name in option.type.split("|")]
    (name,) = (name for name in names if name != "None")
    return TYPES[name], "None" in names
