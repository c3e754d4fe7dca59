"""The public names, and the README's lines of Python."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import subcircuit
from tiny import NODES
from tiny_folder import study

README = Path(__file__).parents[2] / "README.md"


def test_every_public_name_is_there_once() -> None:
    assert set(subcircuit.__all__) == set(subcircuit.HOMES)
    for name in subcircuit.__all__:
        value = getattr(subcircuit, name)
        assert value is getattr(subcircuit, name)
        assert value.__name__ == name
    assert set(subcircuit.__all__) <= set(dir(subcircuit))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'subcircuit' has no attribute 'circuits'"):
        subcircuit.circuits  # noqa: B018


def test_importing_the_package_imports_nothing_heavy_and_changes_nothing() -> None:
    code = (
        "import logging, sys, warnings;"
        "before = (list(warnings.filters), logging.root.level, logging.root.handlers[:]);"
        "import subcircuit; from subcircuit import Kind, Node, Site;"
        "assert before == (list(warnings.filters), logging.root.level, logging.root.handlers[:]);"
        "assert not {'torch', 'transformers', 'pydantic', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_lines_of_the_readme_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (lines,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    files = study(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, path in {"smollm2-135m": files.model, "ioi": files.prompts}.items():
        assert f'("{name}")' in lines
        lines = lines.replace(f'("{name}")', f"({str(path)!r})")
    scope: dict[str, object] = {}
    exec(lines, scope)
    assert "kl=Estimate(" in capsys.readouterr().out
    circuit = subcircuit.Circuit.load(tmp_path / "runs" / "ioi")
    assert {(node.site.layer, node.unit) for node in circuit.nodes(subcircuit.Kind.HEAD)} <= set(NODES[0])
