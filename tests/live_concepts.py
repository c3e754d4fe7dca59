"""A codebook of a tiny model in files, and the session that answers questions about it."""

from dataclasses import dataclass
from pathlib import Path

import tiny_files
from concept_folders import codebook_folder
from subcircuit.concepts.scores import ScoreFile
from subcircuit.concepts.study import Study
from subcircuit.loading import load
from subcircuit.subject import Subject
from subcircuit.view.concepts import ConceptSession
from tiny_concepts import spoken

__all__ = ["LiveConcepts", "live_concepts"]


@dataclass(frozen=True)
class LiveConcepts:
    """A codebook's folder, and a session that has it open."""

    folder: Path
    study: Study
    subject: Subject
    session: ConceptSession


def live_concepts(folder: Path) -> LiveConcepts:
    """Fitted on a model that lies beside it, and scored."""
    subject = load(str(tiny_files.save(spoken(), folder / "model")))
    study = codebook_folder(folder / "book", subject=subject)
    score = ScoreFile.load(folder / "book")
    assert score is not None
    session = ConceptSession(subject, study, [row.text for row in score.faithfulness.rows])
    return LiveConcepts(folder / "book", study, subject, session)
