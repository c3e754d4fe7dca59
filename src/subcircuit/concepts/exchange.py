"""Does the answer follow a concept from one text into another? A text takes that of a donor, answered otherwise.

    h' = h + ((h_donor - h) . v) v

`h` is the state of the text's most salient word, `h_donor` the donor's, `v` the direction of the donor's concept.
Beside it stand a move as far along a random direction, and the donor's whole state in the place of the text's.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from subcircuit.batching import batched
from subcircuit.concepts.codebook import Codebook
from subcircuit.concepts.reading import Reading, probability
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject

__all__ = ["exchanged"]


@torch.no_grad()
def exchanged(
    subject: Subject, book: Codebook, reading: Reading, *, batch: int, seed: int
) -> dict[str, Float[Tensor, " text"]]:
    """How far the probability of the donor's answer rises, text by text; empty where all texts have one answer."""
    generator = torch.Generator().manual_seed(seed)
    if len(reading.said.unique()) < 2:
        return {}
    donors = (reading.said[:, None] != reading.said).float().multinomial(1, generator=generator)[:, 0]
    wanted, states = reading.said[donors], reading.at_salient(reading.states)
    directions = book.direction(reading.concepts[donors])
    apart = states[donors] - states
    along = (apart * directions).sum(1, keepdim=True)
    noise = normalize(torch.randn(directions.shape, generator=generator), dim=-1)
    moves = {"concept": along * directions, "random direction": along * noise, "whole state": apart}
    before = _chance(subject, book, reading, torch.zeros_like(apart), wanted, batch)
    return {name: _chance(subject, book, reading, move, wanted, batch) - before for name, move in moves.items()}


def _chance(
    subject: Subject,
    book: Codebook,
    reading: Reading,
    moves: Float[Tensor, "text width"],
    wanted: Int[Tensor, " text"],
    batch: int,
) -> Float[Tensor, " text"]:
    """The probability of the wanted answers with each text's salient word moved."""
    words = zip(reading.framed.words, reading.salient.tolist(), strict=True)
    last = torch.tensor([every[word].last for every, word in words])
    found = torch.zeros(len(last))

    def run(rows: Tensor) -> None:
        def edit(act: Tensor) -> Tensor:
            moved = act.clone()
            moved[torch.arange(len(rows)), last[rows], 0] += moves[rows].to(act.device, act.dtype)
            return moved

        with subject.editing({Site(book.about.layer, Kind.RESID): edit}):
            logits = subject.logits(reading.framed.rows(rows).prompts)
        found[rows] = probability(logits, reading.answers, wanted[rows]).cpu()

    batched(run, reading.framed.prompts.lengths, batch)
    return found
