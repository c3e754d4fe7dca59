"""A folder of modules used as a table: the file's name is the key, its one export the value.

Listing a table, or the options of an entry, reads source text and imports nothing: the command line stays quick.
"""

import ast
import importlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from subcircuit.errors import UnknownName

__all__ = ["Option", "load", "names", "options", "presets", "summary"]

ROOT = Path(__file__).parent
WORDS = {"families": "family", "tasks": "task", "methods": "method", "concepts/codebooks": "method"}


@dataclass(frozen=True)
class Option:
    """A setting as its dataclass field spells it: `name: Annotated[type, help] = default`."""

    name: str
    type: str  # as written: "int", "float | None", ...
    help: str
    default: Any


def names(folder: str) -> list[str]:
    """The keys of a table, sorted. A leading underscore keeps a file out of it."""
    stems = (path.stem for path in (ROOT / folder).glob("*.py"))
    return sorted(spell(stem) if folder != "families" else stem for stem in stems if not stem.startswith("_"))


def load(folder: str, name: str) -> Any:
    """The export of the module called `name`. Raises UnknownName with the nearest key."""
    module = importlib.import_module(f"subcircuit.{folder.replace('/', '.')}.{_stem(folder, name)}")
    (export,) = module.__all__
    return getattr(module, export)


def summary(folder: str, name: str) -> str:
    """The first line of an entry's docstring, without importing it. Raises UnknownName."""
    return (ast.get_docstring(_tree(folder, name)) or "").partition("\n")[0]


def options(folder: str, name: str) -> list[Option]:
    """The settings of an entry's exported dataclass, without importing it. Raises UnknownName."""
    return [option for node in _export(folder, name).body if (option := _option(node)) is not None]


def presets(folder: str, name: str) -> dict[str, str]:
    """The presets of an entry's exported class, each with its docstring's first paragraph, without importing it.

    A preset is a classmethod that the class names in `presets`; it makes an entry with other defaults. Raises
    UnknownName.
    """
    body = _export(folder, name).body
    values = [node.value for node in body if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "presets"]
    named = ast.literal_eval(values[0]) if values and values[0] is not None else ()
    texts = {node.name: ast.get_docstring(node) or "" for node in body if isinstance(node, ast.FunctionDef)}
    return {preset: " ".join(texts[preset].partition("\n\n")[0].split()) for preset in named}


def spell(name: str) -> str:
    return name.replace("_", "-")


def _stem(folder: str, name: str) -> str:
    key = spell(name) if folder != "families" else name
    if key not in names(folder):
        raise UnknownName(WORDS[folder], name, names(folder))
    return key.replace("-", "_")


@cache
def _tree(folder: str, name: str) -> ast.Module:
    path = ROOT / folder / f"{_stem(folder, name)}.py"
    return ast.parse(path.read_text(encoding="utf-8"))


def _export(folder: str, name: str) -> ast.ClassDef:
    tree = _tree(folder, name)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    (export,) = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return classes[export]


def _option(node: ast.stmt) -> Option | None:
    if not isinstance(node, ast.AnnAssign) or not isinstance(node.annotation, ast.Subscript) or node.value is None:
        return None
    if ast.unparse(node.annotation.value) != "Annotated" or not isinstance(node.annotation.slice, ast.Tuple):
        return None
    kind, text = node.annotation.slice.elts[:2]
    return Option(ast.unparse(node.target), ast.unparse(kind), ast.literal_eval(text), ast.literal_eval(node.value))
