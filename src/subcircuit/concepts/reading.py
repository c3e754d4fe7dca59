"""What a model answers to texts, the words it rests that on, and the concept of each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.batching import batched
from subcircuit.concepts.codebook import Codebook
from subcircuit.concepts.framing import Frame, Framed, label_probabilities
from subcircuit.concepts.salience import salience, word_scores
from subcircuit.errors import DataError
from subcircuit.progress import Progress, silent
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject

__all__ = ["Reading", "probability", "read_texts", "require_same"]


@dataclass(frozen=True)
class Reading:
    """One entry a text."""

    framed: Framed
    answers: Int[Tensor, " label"]
    said: Int[Tensor, " text"]  # number of the label, or token id where there are no labels
    chance: Float[Tensor, " text"]  # the model's probability of it
    scores: list[Float[Tensor, " word"]]  # salience of each word; positive = for what was said
    states: list[Float[Tensor, "word width"]]  # at the codebook's layer
    codes: list[Int[Tensor, " word"]]
    distances: list[Float[Tensor, " word"]]

    @property
    def salient(self) -> Int[Tensor, " text"]:
        """The word of the largest score, by magnitude."""
        return torch.tensor([int(scores.abs().argmax()) for scores in self.scores])

    @property
    def concepts(self) -> Int[Tensor, " text"]:
        """Its code."""
        return self.at_salient(self.codes)

    def at_salient(self, values: Sequence[Tensor]) -> Tensor:
        """What the most salient word of each text has of `values`, which have an entry a word."""
        return torch.stack([each[word] for each, word in zip(values, self.salient.tolist(), strict=True)])

    def coded(self, book: Codebook) -> "Reading":
        """The same by the concepts of another codebook of the same states."""
        found = [book.assign(each) for each in self.states]
        return replace(self, codes=[codes for codes, _ in found], distances=[away for _, away in found])


def require_same(subject: Subject, book: Codebook) -> None:
    """Raises DataError when the codebook is of another model's states."""
    if book.about.revision != subject.revision:
        raise DataError(
            f"the codebook is of {book.about.model} ({book.about.revision}); this is {subject.name} "
            f"({subject.revision})",
            "give the model that it was fitted on, or fit it again",
        )


def probability(
    logits: Float[Tensor, "prompt vocab"], answers: Int[Tensor, " label"], said: Int[Tensor, " prompt"]
) -> Float[Tensor, " prompt"]:
    """Of what was said: among the labels or, without them, among all tokens."""
    shares = label_probabilities(logits, answers) if len(answers) else logits.softmax(-1)
    return shares.gather(1, said[:, None].to(shares.device))[:, 0]


def read_texts(
    subject: Subject,
    book: Codebook,
    frame: Frame,
    texts: Sequence[str],
    *,
    steps: int = 16,
    batch: int = 16,
    progress: Progress = silent,
) -> Reading:
    """Runs the model on the texts. Raises DataError for another model's codebook, and as `Frame.around`."""
    require_same(subject, book)
    framed, answers = frame.around(texts, subject.tokenizer), frame.answers(subject.tokenizer)
    site, n = Site(book.about.layer, Kind.RESID), len(framed)
    said, chance = torch.zeros(n, dtype=torch.long), torch.zeros(n)
    scores: dict[int, Tensor] = {}
    found: dict[int, Tensor] = {}

    def read(rows: Tensor) -> None:
        some = framed.rows(rows)
        logits, seen = subject.record(some.prompts, [site])
        here = seen[site][:, :, 0]
        odds = logits[:, answers.to(logits.device)] if len(answers) else logits
        top = odds.argmax(-1)
        tokens = salience(subject, some, book.about.layer, here, book.mean, answers, top, steps)
        for row, score, state, words in zip(
            rows.tolist(), word_scores(some, tokens), here.float().cpu(), some.words, strict=True
        ):
            scores[row] = score.cpu()
            found[row] = state[[word.last for word in words]]
        said[rows], chance[rows] = top.cpu(), probability(logits, answers, top).cpu()
        progress("read", len(scores), n)

    batched(read, framed.prompts.lengths, batch)
    salient, states = [scores[row] for row in range(n)], [found[row] for row in range(n)]
    return Reading(framed, answers, said, chance, salient, states, codes=[], distances=[]).coded(book)
