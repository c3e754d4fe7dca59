"""What the page of a codebook is told: every concept with its words, examples, effect and writers, and their labels."""

import hashlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from subcircuit.circuit import Circuit
from subcircuit.concepts.beside import Measured
from subcircuit.concepts.catalogue import Concept, Example
from subcircuit.concepts.codebook import About, Codebook
from subcircuit.concepts.effects import FaithfulnessReport, SeedEffect
from subcircuit.concepts.framing import Frame
from subcircuit.concepts.labels import Labels, concept_ids
from subcircuit.concepts.scores import ScoreFile
from subcircuit.concepts.study import Study
from subcircuit.concepts.writing import Writing, Written
from subcircuit.report.arrays import Arrays, Part
from subcircuit.report.writers import CircuitAbout, Writer, about_circuit, circuit_of, writers

__all__ = ["ConceptPage", "ConceptPayload", "PageConcept", "concept_payload", "is_codebook"]

M = TypeVar("M", bound=Measured)
SIMILAR = 6
FEW = 30  # texts below which effects of single concepts are anecdotes
FILES = ("codebook.json", "codebook.safetensors", "concepts.json", "writers.json", "score.json", "labels.json")


class ConceptEffect(Part):
    """Texts whose most salient word is this concept's, without it."""

    change: float = Field(description="|P(answer) before - after|, the mean")
    flipped: int = Field(description="texts that then have another answer")
    rows: list[int] = Field(description="of the score's texts")


class PageConcept(Part):
    """One concept."""

    id: str = Field(description="of its direction; what labels hang on")
    label: str = Field(description="what people call it; empty where nobody has")
    name: str = Field(description="its most characteristic words")
    code: int
    size: int
    words: dict[str, int]
    examples: list[Example]
    labels: dict[str, float]
    similar: list[tuple[int, float]] = Field(description="codes of like direction, with the cosine")
    effect: ConceptEffect | None
    heads: list[Writer]
    neurons: list[Writer]
    embedding: float | None = Field(description="the embedding's share, as those of writers")


class ConceptPage(Part):
    """A codebook."""

    folder: str
    about: About
    frame: Frame
    threshold: float
    texts: dict[str, float] = Field(description="share of all states in texts of each label")
    concepts: list[PageConcept] = Field(description="by code")
    score: FaithfulnessReport | None
    verdict: str = Field(description="evidence, no evidence, or empty where there is no score yet")
    reason: str
    stability: list[float] | None
    seeds: list[SeedEffect] | None
    circuit: CircuitAbout | None
    note: str = Field(description="why there are no writers")
    warnings: list[str]
    files: dict[str, str] = Field(description="sha256 of each file")


class ConceptPayload(Part):
    """All of the page."""

    concepts: ConceptPage

    @property
    def title(self) -> str:
        """What a browser shows above the page."""
        about = self.concepts.about
        return f"Concepts at layer {about.layer} of {about.model}: {about.method}"

    def labelled(self, labels: Labels, folder: Path) -> "ConceptPayload":
        """The same with these labels, which are those of the folder by now."""
        named = [each.model_copy(update={"label": labels.labels.get(each.id, "")}) for each in self.concepts.concepts]
        files = self.concepts.files | {Labels.FILE: _sha256(folder / Labels.FILE)}
        return ConceptPayload(concepts=self.concepts.model_copy(update={"concepts": named, "files": files}))


def is_codebook(folder: Path) -> bool:
    """Whether `concepts fit` wrote the folder."""
    return (folder / FILES[0]).is_file()


def concept_payload(folder: str, circuit: str | None = None) -> tuple[ConceptPayload, Arrays]:
    """Read a codebook's folder and, where it is given, the run whose circuit is to be marked.

    Raises DataError for files that cannot be read, and for a circuit of another model.
    """
    place = Path(folder)
    study, score, writing = Study.load(place), ScoreFile.load(place), Writing.load(place)
    labels, ids = Labels.load(place) or Labels(), concept_ids(study.book)
    marked = None if circuit is None else circuit_of(Path(circuit), study.book.about)
    told = _warnings(folder, study.book, score, writing, set(labels.labels) - set(ids))
    score, writing = _own(score, study.book), _own(writing, study.book)
    report = score.faithfulness if score else None
    effects = _effects(report) if report else {}
    written = {each.code: each for each in writing.concepts if each.whole > 0} if writing else {}
    concepts = [
        _concept(study.book, each, ids[each.code], labels, effects.get(each.code), written.get(each.code), marked)
        for each in study.catalogue.concepts
    ]
    page = ConceptPage(
        folder=folder,
        about=study.book.about,
        frame=study.catalogue.frame,
        threshold=study.book.threshold,
        texts=_shares(study.catalogue.concepts),
        concepts=concepts,
        score=report,
        verdict=report.verdict if report else "",
        reason=report.reason if report else "",
        stability=score.stability if score else None,
        seeds=score.seeds if score else None,
        circuit=None if marked is None else about_circuit(str(circuit), marked),
        note=writing.note if writing else "",
        warnings=told,
        files={name: _sha256(place / name) for name in FILES if (place / name).is_file()},
    )
    return ConceptPayload(concepts=page), Arrays()


def _concept(
    book: Codebook,
    concept: Concept,
    identity: str,
    labels: Labels,
    effect: ConceptEffect | None,
    written: Written | None,
    circuit: Circuit | None,
) -> PageConcept:
    return PageConcept(
        id=identity,
        label=labels.labels.get(identity, ""),
        name=" ".join(concept.name),
        code=concept.code,
        size=concept.size,
        words=concept.words,
        examples=concept.examples,
        labels=concept.labels,
        similar=book.similar(concept.code, SIMILAR),
        effect=effect,
        heads=writers(written.heads, written.whole, circuit) if written else [],
        neurons=writers(written.neurons, written.whole, circuit) if written else [],
        embedding=written.embedding / written.whole if written else None,
    )


def _effects(report: FaithfulnessReport) -> dict[int, ConceptEffect]:
    """Of each code that is a salient word's."""
    rows: dict[int, list[int]] = defaultdict(list)
    for number, row in enumerate(report.rows):
        rows[row.code].append(number)
    return {code: _effect(report, mine) for code, mine in rows.items()}


def _effect(report: FaithfulnessReport, rows: list[int]) -> ConceptEffect:
    mine = [report.rows[row] for row in rows]
    change = sum(abs(each.before - each.after) for each in mine) / len(mine)
    return ConceptEffect(change=change, flipped=sum(each.flipped for each in mine), rows=rows)


def _shares(concepts: list[Concept]) -> dict[str, float]:
    sums = Counter[str]()
    for concept in concepts:
        sums.update({label: share * concept.size for label, share in concept.labels.items()})
    return {label: total / sum(each.size for each in concepts) for label, total in sums.items()}


def _own(measured: M | None, book: Codebook) -> M | None:
    return measured if measured and measured.codebook == book.digest else None


def _warnings(
    folder: str, book: Codebook, score: ScoreFile | None, writing: Writing | None, strange: set[str]
) -> list[str]:
    """A sentence each, the gravest first."""
    again = f"subcircuit concepts score {folder} --texts FILE"
    told = []
    if score is None:
        told.append(f"Not scored yet: {again}")
    elif score.codebook != book.digest:
        told.append(f"score.json is of an earlier codebook and left out: {again}")
    elif score.faithfulness.texts < FEW:
        told.append(f"Scored on {score.faithfulness.texts} texts only: effects of single concepts are anecdotes.")
    if writing is None or writing.codebook != book.digest:
        told.append("Which heads and neurons write these concepts nobody has looked up: fit again with --writers.")
    if strange:
        told.append(
            f"labels.json names {len(strange)} concepts that this codebook does not have; they stay in the file."
        )
    return told


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
