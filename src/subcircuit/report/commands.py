"""The commands that make a run again, as they would be typed."""

import shlex
from typing import Any

from subcircuit import plugins
from subcircuit.evaluation.comparison import Scored
from subcircuit.runs import Run

__all__ = ["commands"]


def commands(scored: Scored, run: Run | None) -> list[str]:
    """`find` with every setting that is not its default, and `score` as the evidence was made.

    Circuits made by hand or read from other formats have no method here, so for them there is nothing but `score`.
    """
    origin, found = scored.circuit.origin, scored.evidence
    lines = []
    if origin.method in plugins.names("methods"):
        words = ["subcircuit", "find", origin.method, "--model", origin.model, "--task", origin.task]
        if origin.revision and not origin.revision.startswith("sha256:"):
            words += ["--revision", origin.revision]
        if origin.dtype != "float32":
            words += ["--dtype", origin.dtype]
        words += _task_options(origin.task, origin.task_options)
        words += _settings(origin.method, run.settings if run else origin.settings)
        lines.append(shlex.join([*words, "--out", scored.folder]))
    if found is not None:
        words = [
            "subcircuit",
            "score",
            scored.folder,
            "--pairs",
            str(found.pairs),
            "--controls",
            str(len(found.random)),
        ]
        words += ["--split", found.split] if found.split != "test" else []
        words += ["--seed", str(found.seed)] if found.seed else []
        lines.append(shlex.join(words + ["--full"] * (scored.curves is not None)))
    return lines


def _task_options(task: str, given: dict[str, Any]) -> list[str]:
    """Options of a built-in task; of a prompts file, whether bad rows were dropped."""
    if task not in plugins.names("tasks"):
        return ["--drop-bad"] if given.get("drop_bad") else []
    defaults = {option.name: option.default for option in plugins.options("tasks", task)}
    changed = [f"{name}={value}" for name, value in given.items() if defaults.get(name) != value]
    return [word for each in changed for word in ("--task-option", each)]


def _settings(method: str, settings: dict[str, Any]) -> list[str]:
    words = []
    for option in plugins.options("methods", method):
        value = settings.get(option.name, option.default)
        if value == option.default or value is None:
            continue
        name = option.name.replace("_", "-")
        words += [f"--{name}" if value else f"--no-{name}"] if isinstance(value, bool) else [f"--{name}", str(value)]
    return words
