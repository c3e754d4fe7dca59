"""What a run leaves: the student as a folder that loads like the one it came from, and its record."""

import shutil
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from subcircuit.compact import PREFIX
from subcircuit.distillation.state import RECORD, STATE
from subcircuit.extraction.writing import add_module
from subcircuit.subject import Subject

__all__ = ["Distilled", "write_taught"]

CARD = "README.md"


class Distilled(BaseModel):
    """`distillation.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = 1
    student: str
    teacher: str
    settings: dict[str, Any]
    prompts: int
    tokens: int = Field(description="tokens that the student learned from")
    history: list[dict[str, float]] = Field(description="means over the tokens of each update")


def write_taught(folder: Path, student: Subject, found: Distilled) -> None:
    """Weights, tokenizer, record, and what the student's own folder said of its circuit."""
    student.model.save_pretrained(folder)
    if str(student.model.config.model_type).startswith(PREFIX):
        add_module(folder)
    student.tokenizer.save_pretrained(folder)
    (folder / RECORD).write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
    came = Path(student.name)
    for name in ("extraction.json", "circuit.json"):
        if (came / name).is_file():
            shutil.copyfile(came / name, folder / name)
    if (came / CARD).is_file():
        (folder / CARD).write_text(_card((came / CARD).read_text(encoding="utf-8"), found), encoding="utf-8")
    (folder / STATE).unlink(missing_ok=True)


def _card(text: str, found: Distilled) -> str:
    """The student's card, with what happened since below its title."""
    note = (
        f"These weights were taught afterwards by {found.teacher}, on {found.tokens:,} tokens after {found.prompts:,} "
        f"prompts (`{RECORD}` has the settings). The numbers below are those of the model before that."
    )
    head, title, body = text.partition("\n# ")
    line, _, rest = body.partition("\n")
    return f"{head}{title}{line}\n\n{note}\n{rest}" if title else f"{note}\n\n{text}"
