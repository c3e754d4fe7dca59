"""Tasks: one file each; the file name is the key."""

__all__ = ["PROMPT_FILES"]

PROMPT_FILES = (".jsonl", ".csv")  # a task whose name ends so is a file of the user's own prompts
