"""Models on the tasks of lm-evaluation-harness, for users who have its data: the extra `lmeval`."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from subcircuit.errors import MissingExtra, UsageError
from subcircuit.subject import Subject

__all__ = ["Row", "lm_eval_table"]


class Row(BaseModel):
    """One number of the table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    task: str
    metric: str
    value: float
    error: float | None = Field(description="its standard error over documents; null where there is none")


def lm_eval_table(
    models: Mapping[str, Subject],
    tasks: Sequence[str],
    *,
    folder: Path | None = None,
    limit: int | None = None,
    batch: int = 8,
) -> list[Row]:
    """Every metric of every task for the models by these names: teacher, extracted, distilled.

    Args:
        tasks: names of lm-evaluation-harness; it fetches their data where they are not on disk.
        folder: of task files of your own (YAML), besides those that it brings.
        limit: documents of each task; all by default.
        batch: texts at a time.

    Raises MissingExtra without the extra `lmeval`, UsageError for a task that it does not know.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise MissingExtra("a table of lm-evaluation-harness", "lmeval")
    from lm_eval import simple_evaluate  # type: ignore[import-not-found,unused-ignore]
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-not-found,unused-ignore]
    from lm_eval.tasks import TaskManager  # type: ignore[import-not-found,unused-ignore]

    manager = TaskManager(include_path=str(folder) if folder is not None else None)
    unknown = sorted(set(tasks) - set(manager.all_tasks))
    if unknown or not tasks:
        what = f"lm-eval has no task '{unknown[0]}'" if unknown else "no task of lm-eval was named"
        raise UsageError(what, "`lm-eval ls tasks` lists them; folder= adds task files of your own")
    rows = []
    for name, subject in models.items():
        reader = HFLM(pretrained=subject.model, tokenizer=subject.tokenizer, backend="causal", batch_size=batch)
        with torch.random.fork_rng([]):
            found: Any = simple_evaluate(
                reader, tasks=list(tasks), limit=limit, task_manager=manager, log_samples=False
            )
        rows += _rows(name, found["results"])
    return rows


def _rows(model: str, results: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """From `{task: {"acc,none": ..., "acc_stderr,none": ...}}`."""
    rows = []
    for task, values in results.items():
        for key, value in values.items():
            metric, _, _ = key.partition(",")
            if not isinstance(value, int | float) or "," not in key or metric.endswith("_stderr"):
                continue
            error = values.get(key.replace(metric, f"{metric}_stderr", 1))
            known = float(error) if isinstance(error, int | float) else None
            rows.append(Row(model=model, task=task, metric=metric, value=float(value), error=known))
    return rows
