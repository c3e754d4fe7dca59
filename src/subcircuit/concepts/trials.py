"""What a model says with a direction taken out of its states: one run a direction, text by text."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from subcircuit.batching import batched
from subcircuit.concepts.codebook import Codebook
from subcircuit.concepts.directions import Directions
from subcircuit.concepts.effects import Where
from subcircuit.concepts.framing import Framed
from subcircuit.concepts.reading import Reading, probability
from subcircuit.concepts.removal import Removal, energy, removed
from subcircuit.progress import Progress, silent
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject

__all__ = ["CONCEPT", "Outcome", "Trials"]

CONCEPT = "concept"  # among directions: what the others are matched with


@dataclass(frozen=True)
class Outcome:
    """One number a text, the mean over draws."""

    after: Float[Tensor, " text"]  # probability of what the whole model had said
    change: Float[Tensor, " text"]  # of it, by magnitude
    flipped: Float[Tensor, " text"]
    right: Float[Tensor, " text"] | None
    removed: Float[Tensor, " text"]  # energy, as a share of the centred states'
    pooled: Float[Tensor, "text width"]  # mean of the states without it, over where it was removed; of the first draw


@dataclass(frozen=True)
class Trials:
    """Texts that were read, and how directions are taken out of them."""

    subject: Subject
    book: Codebook
    reading: Reading
    gold: Int[Tensor, " text"] | None
    where: Where
    centred: bool
    matched: bool
    batch: int

    @torch.no_grad()
    def run(self, directions: Directions, *, progress: Progress = silent) -> dict[str, Outcome]:
        """Every kind of direction removed."""
        n, done = len(self.reading.said), 0
        shape = {name: (len(draws), n) for name, draws in directions.items()}
        chance, taken = ({name: torch.zeros(each) for name, each in shape.items()} for _ in range(2))
        said = {name: torch.zeros(each, dtype=torch.long) for name, each in shape.items()}
        pooled = {name: torch.zeros(n, self.book.width) for name in directions}

        def run(rows: Tensor) -> None:
            nonlocal done
            states = self.states(rows)
            for (name, draw), (removal, share) in self.removals(rows, states, directions).items():
                after, answer = self._answers(rows, removal)
                chance[name][draw, rows], said[name][draw, rows], taken[name][draw, rows] = after, answer, share
                if draw == 0:
                    pooled[name][rows] = _mean_over(removed(states, removal), removal.where)
            done += len(rows)
            progress("remove", done, n)

        batched(run, self.reading.framed.prompts.lengths, self.batch)
        return {name: self._outcome(chance[name], said[name], taken[name], pooled[name]) for name in directions}

    def whole(self) -> Float[Tensor, "text width"]:
        """The mean of the states over where concepts are removed, with nothing removed."""
        found = torch.zeros(len(self.reading.said), self.book.width)

        def pool(rows: Tensor) -> None:
            found[rows] = _mean_over(self.states(rows), self._places(rows))

        batched(pool, self.reading.framed.prompts.lengths, self.batch)
        return found

    def states(self, rows: Tensor) -> Float[Tensor, "prompt pos width"]:
        """Of some texts, at the codebook's layer."""
        site = Site(self.book.about.layer, Kind.RESID)
        return self.subject.record(self.reading.framed.rows(rows).prompts, [site])[1][site][:, :, 0].float().cpu()

    def removals(
        self, rows: Tensor, states: Float[Tensor, "prompt pos width"], directions: Directions
    ) -> dict[tuple[str, int], tuple[Removal, Tensor]]:
        """The removal of each draw, with the share of the states' energy that it takes."""
        where = self._places(rows)
        mean = self.book.mean if self.centred else torch.zeros_like(self.book.mean)
        whole = ((states.double() - self.book.mean.double()).square().sum(-1) * where).sum(1)
        aim = energy(states, directions[CONCEPT][0][rows], where, mean)
        found = {}
        for name, draws in directions.items():
            for draw, every in enumerate(draws):
                own = energy(states, every[rows], where, mean)
                matched = self.matched and name != CONCEPT
                gains = (aim / own.clamp(min=1e-20)).sqrt() if matched else torch.ones_like(own)
                share = own * gains.square() / whole
                found[name, draw] = Removal(every[rows], where, mean, gains.float()), share.float()
        return found

    def logits(self, rows: Tensor, removal: Removal) -> Float[Tensor, "prompt vocab"]:
        """What the model says to some texts without it."""
        with removal.at(self.subject, self.book.about.layer):
            return self.subject.logits(self.reading.framed.prompts[rows])

    def _outcome(self, chance: Tensor, said: Tensor, taken: Tensor, pooled: Tensor) -> Outcome:
        right = None if self.gold is None else (said == self.gold).float().mean(0)
        change, flipped = (chance - self.reading.chance).abs(), (said != self.reading.said).float()
        return Outcome(chance.mean(0), change.mean(0), flipped.mean(0), right, taken.mean(0), pooled)

    def _places(self, rows: Tensor) -> Bool[Tensor, "prompt pos"]:
        return _places(self.reading.framed.rows(rows), self.where, self.reading.salient[rows].tolist())

    def _answers(self, rows: Tensor, removal: Removal) -> tuple[Tensor, Tensor]:
        """The probability of what was said before, and what is said now."""
        logits = self.logits(rows, removal)
        answers, said = self.reading.answers, self.reading.said[rows]
        now = logits[:, answers.to(logits.device)].argmax(-1)
        return probability(logits, answers, said).cpu(), now.cpu()


def _mean_over(
    states: Float[Tensor, "prompt pos width"], where: Bool[Tensor, "prompt pos"]
) -> Float[Tensor, "prompt width"]:
    """Of each prompt's states at some positions."""
    return torch.einsum("bpd,bp->bd", states, where.to(states.dtype)) / where.sum(1, keepdim=True)


def _places(framed: Framed, where: Where, salient: Sequence[int]) -> Bool[Tensor, "prompt pos"]:
    """Where something is removed: from the text to the judged token, at the salient word, or at the judged token."""
    prompts, positions = framed.prompts, torch.arange(framed.prompts.ids.shape[1])
    if where == "judged":
        return positions == prompts.at[:, None]
    if where == "text":
        first = torch.tensor([words[0].first for words in framed.words])
        return (positions >= first[:, None]) & (positions <= prompts.at[:, None]) | framed.own
    found = torch.zeros_like(framed.own)
    for row, (words, word) in enumerate(zip(framed.words, salient, strict=True)):
        found[row, words[word].first : words[word].last + 1] = True
    return found
