"""What a prediction rests on, told in concepts: the salient words of a text, the concept of each, and who writes it."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from subcircuit.concepts.framing import Word
from subcircuit.concepts.reading import Reading, read_texts
from subcircuit.concepts.study import Study
from subcircuit.concepts.writers import writers
from subcircuit.errors import UnsupportedModel
from subcircuit.progress import Progress, silent
from subcircuit.sites import Kind
from subcircuit.subject import Subject

__all__ = ["Explained", "SalientWord", "explain"]


class SalientWord(BaseModel):
    """A word, and the concept of its state."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    word: str
    score: float = Field(description="its share in the log odds of the answer; negative = against it")
    code: int
    distance: float
    assigned: bool = Field(description="no farther from its code than the codebook's threshold")
    words: dict[str, int] = Field(description="the concept's most frequent words")
    sentences: list[str]
    labels: dict[str, float] = Field(description="share of the concept's states in texts of each label")
    similar: list[tuple[int, float]] = Field(description="concepts of like direction, with the cosine")
    heads: dict[str, float] = Field(description="what these heads write along the concept's direction, at this word")
    neurons: dict[str, float]


class Explained(BaseModel):
    """One text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str
    answer: str = Field(description="a label, or the model's next token where there are none")
    probability: float
    words: list[SalientWord] = Field(description="the most salient first")
    note: str = Field(default="", description="why there are no writers")


def explain(
    subject: Subject,
    study: Study,
    texts: Sequence[str],
    *,
    words: int = 3,
    writing: int = 5,
    steps: int = 16,
    progress: Progress = silent,
) -> list[Explained]:
    """So many salient words of each text, with so many heads and neurons that write the concept of each.

    Raises DataError for another model's codebook, and as `Frame.around`.
    """
    frame = study.catalogue.frame
    reading = read_texts(subject, study.book, frame, texts, steps=steps, progress=progress)
    return [_explained(subject, study, reading, row, text, words, writing) for row, text in enumerate(texts)]


def _explained(
    subject: Subject, study: Study, reading: Reading, row: int, text: str, words: int, writing: int
) -> Explained:
    labels, said = list(study.catalogue.frame.labels), int(reading.said[row])
    order = reading.scores[row].abs().argsort(descending=True)[:words].tolist()
    note, found = "", []
    for place in order:
        heads: dict[str, float] = {}
        neurons: dict[str, float] = {}
        word, code = reading.framed.words[row][place], int(reading.codes[row][place])
        try:
            heads, neurons = _written(subject, study, reading, row, word, code, writing)
        except UnsupportedModel as error:
            note = error.message
        found.append(_salient(study, reading, row, place, heads, neurons))
    answer = labels[said] if labels else str(subject.tokenizer.decode([said]))
    return Explained(text=text, answer=answer, probability=float(reading.chance[row]), words=found, note=note)


def _written(
    subject: Subject, study: Study, reading: Reading, row: int, word: Word, code: int, n: int
) -> tuple[dict[str, float], dict[str, float]]:
    prompt = reading.framed.prompts[[row]]
    found = writers(subject, prompt, word.last, study.book.about.layer, study.book.direction(code))
    heads, neurons = ({str(node): share for node, share in found.top(n, kind)} for kind in (Kind.HEAD, Kind.NEURON))
    return heads, neurons


def _salient(
    study: Study, reading: Reading, row: int, place: int, heads: dict[str, float], neurons: dict[str, float]
) -> SalientWord:
    code, distance = int(reading.codes[row][place]), float(reading.distances[row][place])
    concept = study.catalogue.concepts[code]
    return SalientWord(
        word=reading.framed.words[row][place].text,
        score=float(reading.scores[row][place]),
        code=code,
        distance=distance,
        assigned=distance <= study.book.threshold,
        words=concept.words,
        sentences=concept.sentences,
        labels=concept.labels,
        similar=study.book.similar(code),
        heads=heads,
        neurons=neurons,
    )
