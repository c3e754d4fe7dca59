"""Tables made of folders: what a file is called is its key, and listing imports none of them."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from subcircuit import plugins
from subcircuit.errors import UnknownName
from subcircuit.families._base import Family
from subcircuit.plugins import Option

METHOD = '''"""Finds nothing. Not even slowly.

More about it.
"""
from dataclasses import dataclass
from typing import Annotated

__all__ = ["FindNothing"]
raise RuntimeError("imported")


@dataclass(frozen=True)
class Other:
    other: Annotated[int, "of another class"] = 1


@dataclass(frozen=True)
class FindNothing:
    """A method."""

    steps: Annotated[int, "points on the path"] = 5
    rate: Annotated[float | None, "learning rate; "
        "None = chosen"] = None
    parts: Annotated[tuple[str, ...], "what to look at"] = ("head", "mlp")
    shift: Annotated[float, "from zero"] = -0.5
    plain: int = 3
    required: Annotated[int, "no default"]

    def find(self) -> None: ...
'''


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of methods, of which one would fail if it were imported."""
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "find_nothing.py").write_text(METHOD)
    (folder / "another.py").write_text("__all__ = ['x']\n")
    for hidden in ("__init__.py", "_base.py", "notes.txt"):
        (folder / hidden).write_text("")
    monkeypatch.setattr(plugins, "ROOT", tmp_path)
    plugins._tree.cache_clear()
    yield folder
    plugins._tree.cache_clear()


def test_names_are_the_file_names_without_hidden_ones(table: Path) -> None:
    assert plugins.names("methods") == ["another", "find-nothing"]


@pytest.mark.parametrize("name", ["find-nothing", "find_nothing"])
def test_summary_and_options_come_from_the_text(table: Path, name: str) -> None:
    assert plugins.summary("methods", name) == "Finds nothing. Not even slowly."
    assert plugins.options("methods", name) == [
        Option("steps", "int", "points on the path", 5),
        Option("rate", "float | None", "learning rate; None = chosen", None),
        Option("parts", "tuple[str, ...]", "what to look at", ("head", "mlp")),
        Option("shift", "float", "from zero", -0.5),
    ]


@pytest.mark.parametrize("ask", [plugins.load, plugins.summary, plugins.options])
def test_unknown_key_names_the_nearest(table: Path, ask: object) -> None:
    assert callable(ask)
    with pytest.raises(UnknownName, match="no method 'find-noting'; did you mean 'find-nothing'"):
        ask("methods", "find-noting")


def test_load_gives_the_one_export() -> None:
    assert isinstance(plugins.load("families", "llama"), Family)


def test_families_keep_the_spelling_of_their_model_type() -> None:
    assert {"gpt_neox", "gemma3_text"} <= set(plugins.names("families"))
    with pytest.raises(UnknownName, match="no family 'gpt-neox'; did you mean 'gpt_neox'"):
        plugins.load("families", "gpt-neox")


@pytest.mark.parametrize("folder", sorted(plugins.WORDS))
def test_every_entry_has_one_export_and_a_first_line(folder: str) -> None:
    for name in plugins.names(folder):
        path = plugins.ROOT / folder / f"{name.replace('-', '_')}.py"
        assigned = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Assign)]
        (exports,) = [ast.literal_eval(node.value) for node in assigned if ast.unparse(node.targets[0]) == "__all__"]
        assert len(exports) == 1, path
        assert plugins.summary(folder, name), path


def test_listing_everything_imports_no_torch() -> None:
    code = (
        "import json, sys; from subcircuit import plugins;"
        "table = {f: {n: plugins.summary(f, n) for n in plugins.names(f)} for f in plugins.WORDS};"
        "[plugins.options('methods', n) for n in table['methods']];"
        "print(json.dumps([table, 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    table, imported = json.loads(done.stdout)
    assert imported is False
    assert "llama" in table["families"]
