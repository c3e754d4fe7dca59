"""A run of a tiny planted model as files, and the session that answers questions about it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reported import ranked_circuit
from subcircuit.circuit import Circuit
from subcircuit.loading import load
from subcircuit.subject import Prompts, Subject
from subcircuit.tasks._resolve import task
from subcircuit.view import Question, Session
from tiny_folder import study

__all__ = ["Live", "live", "prompts_of"]


@dataclass(frozen=True)
class Live:
    """A run folder, and a session that has it open."""

    folder: Path
    session: Session
    subject: Subject

    def question(self, **changes: Any) -> Question:
        """About the first pair of the test split."""
        return Question(**{**self.session.examples[0].model_dump(), **changes})


def live(folder: Path, reference: str = "corrupt", family: str = "llama") -> Live:
    """The planted circuit with scores drawn at random, its model and prompts in files."""
    files = study(folder, family)
    about = {"model": str(files.model), "task": str(files.prompts), "reference": reference}
    subject = load(files.model)
    circuit = ranked_circuit(effects=True)
    origin = circuit.origin.model_copy(update={**about, "revision": subject.revision, "family": family})
    Circuit(circuit.scores, circuit.kept, origin).save(run := folder / "run")
    return Live(run, Session(subject, Circuit.load(run), task(files.prompts), folder=str(run)), subject)


def prompts_of(subject: Subject, text: str) -> Prompts:
    """One row, judged at its last token."""
    ids = torch.tensor([subject.tokenizer(text).input_ids])
    return Prompts(ids, torch.ones_like(ids, dtype=torch.bool), torch.tensor([ids.shape[1] - 1]))
