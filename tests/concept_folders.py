"""A codebook's folder as the command line leaves it, of a tiny model, and a circuit of the same model."""

from pathlib import Path

from subcircuit.concepts.codebooks.kmeans import KMeans
from subcircuit.concepts.faithfulness import Faithfulness
from subcircuit.concepts.framing import Frame
from subcircuit.concepts.harvest import Harvest
from subcircuit.concepts.scores import ScoreFile
from subcircuit.concepts.study import Study, fit
from subcircuit.concepts.writing import write
from subcircuit.subject import Subject
from tiny_circuit import by_hand, kept_nodes
from tiny_concepts import FRAME, corpus, spoken, told

__all__ = ["CODES", "LAYER", "circuit_folder", "codebook_folder"]

LAYER, CODES = 1, 12


def codebook_folder(
    folder: Path, *, scored: bool = True, subject: Subject | None = None, frame: Frame = FRAME
) -> Study:
    """Fitted and looked up, and scored on other texts."""
    subject = subject or spoken()
    states = Harvest(per_word=0).run(subject, told(subject, corpus(80)), frame, [LAYER], folder / "states")
    study = fit(KMeans(CODES, steps=30, batch=256), states, LAYER)
    study.save(folder)
    write(subject, study, states.corpus).save(folder)
    if scored:
        others = told(subject, corpus(20, seed=3))
        report = Faithfulness(steps=4, draws=1).run(subject, study.book, FRAME, others)
        ScoreFile(codebook=study.book.digest, faithfulness=report, stability=None, seeds=None).save(folder)
    return study


def circuit_folder(folder: Path, heads: list[tuple[int, int]], neurons: list[tuple[int, int]]) -> Path:
    """Of these (layer, unit) alone."""
    subject = spoken()
    by_hand(kept_nodes(subject, heads, neurons), revision=subject.revision, task="letters").save(folder)
    return folder
