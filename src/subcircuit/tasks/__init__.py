"""Tasks: one file each; the file name is the key."""

from pathlib import Path

__all__ = ["FORMATS", "PROMPT_FILES", "in_file"]

PROMPT_FILES = (".jsonl", ".csv")  # a task whose name ends so is a file of the user's own prompts
# and one whose name begins so, with a colon and a path, is a file of that form
FORMATS = ("continuations", "winobias", "winogender", "counterfact")


def in_file(task: str | Path) -> tuple[str, Path] | None:
    """The format ("" for a plain prompts file) and the path of a task that is a file; None for a built-in one."""
    form, colon, path = str(task).partition(":")
    if colon and form in FORMATS:
        return form, Path(path)
    return ("", Path(task)) if Path(task).suffix in PROMPT_FILES else None
