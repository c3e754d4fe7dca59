"""Every code block of the README and the docs: parsed in every run, executed in the slow one."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OWN = "my_prompts.jsonl"  # the prompts file the pages speak of
NEEDS_HUB = ("gpt2", "user/", "submission")  # a model that is there only, or a place of one's own
BLOCKS = [(page, kind, text) for page in PAGES for kind, text in BLOCK.findall(page.read_text(encoding="utf-8"))]
COMMANDS = [
    (page, line.partition("  #")[0].strip())
    for page, kind, text in BLOCKS
    if kind == "console"
    for line in text.replace("\\\n", " ").splitlines()
    if line.startswith("subcircuit ")
]


def name(value: object) -> str:
    return value.name if isinstance(value, Path) else " ".join(str(value).split())[:60]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "subcircuit", *command], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_every_kind_of_block_is_known() -> None:
    assert {kind for _, kind, _ in BLOCKS} <= {"console", "python", "json", "text"}


def test_the_readme_has_its_blocks() -> None:
    kinds = [kind for page, kind, _ in BLOCKS if page.name == "README.md"]
    assert {"console", "python", "json"} <= set(kinds)


@pytest.mark.parametrize(("page", "kind", "text"), [block for block in BLOCKS if block[1] != "console"], ids=name)
def test_block_parses(page: Path, kind: str, text: str) -> None:
    if kind == "python":
        compile(text, str(page), "exec")
    if kind == "json":
        for line in [text] if text.startswith("{\n") else text.strip().splitlines():
            json.loads(line)


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=name)
def test_command_has_its_options(page: Path, command: str, tmp_path: Path) -> None:
    words = shlex.split(command)[1:]
    groups = ("bench", "concepts", "features", "find", "list", "plan")
    verb = words[:2] if words[0] in groups and not words[1].startswith("-") else words[:1]
    verb = words[:3] if verb in (["concepts", "fit"], ["plan", "find"]) else verb
    shown = run([*verb, "--help"], tmp_path)
    assert shown.returncode == 0, shown.stderr
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        assert option in shown.stdout, f"{page.name}: {command}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in, with the prompts file that the pages speak of."""
    made = tmp_path_factory.mktemp("reader")
    nouns = ["key", "door", "dog", "boy", "tree", "song", "road", "book", "bird", "girl", "car", "cup"]
    rows = [
        {
            "clean": f"The {a}s to the {b}",
            "corrupt": f"The {a} to the {b}",
            "answers": [" are"],
            "wrong_answers": [" is"],
        }
        for a in nouns
        for b in ("cabinet", "house", "garden")
    ]
    (made / OWN).write_text("".join(json.dumps(row) + "\n" for row in rows))
    felt = {"pos": ("warm", "witty", "gorgeous"), "neg": ("dull", "lifeless", "clumsy")}
    reviews = [
        f"a {word} and {word} {noun} film about a {noun},{label}"
        for label, words in felt.items()
        for word in words
        for noun in nouns
    ]
    (made / "reviews.csv").write_text("text,label\n" + "\n".join(reviews[::2]) + "\n")
    return made


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=name)
def test_command_runs(page: Path, command: str, folder: Path) -> None:
    if command.startswith("subcircuit view"):
        pytest.skip("a server runs until it is told to stop; test_view_page does that")
    if "--launcher slurm" in command:
        pytest.skip("needs a cluster; jobs of Slurm are tested on a local stand-in")
    if any(word in command for word in NEEDS_HUB):
        pytest.skip("needs a hub; loading by hub name is tested on a local stand-in")
    done = run(shlex.split(command)[1:], folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("page", "kind", "text"), [block for block in BLOCKS if block[1] == "python"], ids=name)
def test_python_runs(page: Path, kind: str, text: str, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", text], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
