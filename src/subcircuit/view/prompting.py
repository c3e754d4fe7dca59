"""Text that somebody typed, or a task's own pairs, as prompts of one row; every refusal says what would do."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.errors import DataError
from subcircuit.sites import Site
from subcircuit.subject import Prompts, Subject
from subcircuit.tasks._base import Pairs
from subcircuit.tasks._reading import NotAPosition, Reading
from subcircuit.tasks._report import side_by_side
from subcircuit.view.questions import Example, Question

__all__ = ["Case", "Prompting", "examples"]

Answers = Int[Tensor, "1 answer"] | None
LONGEST = 4096  # tokens of a prompt in the live view, where the model itself does not say less


@dataclass
class Case:
    """A prompt with everything that stays the same while nodes are changed."""

    clean: Prompts
    corrupt: Prompts | None
    right: Answers
    wrong: Answers
    tokens: list[str]
    corrupt_tokens: list[str]
    full: Float[Tensor, "1 vocab"]
    counterfactual: Float[Tensor, "1 vocab"] | None
    values: dict[tuple[str, str], dict[Site, Tensor]] = field(default_factory=dict)  # by fill and other prompt


class Prompting:
    """One subject's way of reading. Raises DataError for a text that it cannot read or judge."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        said = getattr(subject.model.config, "max_position_embeddings", None) or LONGEST
        self.longest = min(int(said), int(subject.tokenizer.model_max_length), LONGEST)

    def case(self, question: Question) -> Case:
        """The prompts and answers of a question, and what the untouched model says to them."""
        reading = Reading(self.subject.tokenizer)
        clean = self.prompt(reading, question.clean, "prompt")
        corrupt = (
            self.aligned(reading, question.clean, question.corrupt, "counterfactual") if question.corrupt else None
        )
        right, wrong = self._sides(reading, question)
        return Case(
            clean=clean,
            corrupt=corrupt,
            right=right,
            wrong=wrong,
            tokens=self._shown(reading, clean),
            corrupt_tokens=self._shown(reading, corrupt) if corrupt else [],
            full=self.subject.logits(clean),
            counterfactual=self.subject.logits(corrupt) if corrupt else None,
        )

    def aligned(self, reading: Reading, clean: str, text: str, what: str) -> Prompts:
        """A prompt of as many tokens as the clean one, judged at the same place."""
        found, wanted = self.prompt(reading, text, what), reading.ids(clean)
        if found.ids.shape[1] != len(wanted):
            rows = side_by_side(reading.tokens(wanted), reading.tokens(reading.ids(text)))
            shown = "\n".join(rows).replace("  corrupt ", "  other   ")
            raise DataError(
                f"the prompt has {len(wanted)} tokens, the {what} {found.ids.shape[1]}\n{shown}",
                "replace words by words of as many tokens, so that positions line up",
            )
        return Prompts(found.ids, found.mask, torch.tensor([self._judged(reading, clean, "prompt")]))

    def prompt(self, reading: Reading, text: str, what: str) -> Prompts:
        """One row, judged at its last token or its mask token."""
        ids = reading.ids(text) if text.strip() else ()
        if not ids:
            raise DataError(f"the {what} is empty", "type a prompt, or take one of the task's")
        if len(ids) > self.longest:
            raise DataError(
                f"the {what} has {len(ids)} tokens, and {self.subject.name} reads at most {self.longest} here",
                "shorten it",
            )
        at = self._judged(reading, text, what)
        return Prompts(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool), torch.tensor([at]))

    def _judged(self, reading: Reading, text: str, what: str) -> int:
        try:
            return reading.judged(text, None)
        except NotAPosition as error:
            raise DataError(f"the {what}: {error}", f"put {reading.mask} once where the word goes") from error

    def _sides(self, reading: Reading, question: Question) -> tuple[Answers, Answers]:
        right, wrong = (self._answers(reading, question.clean, a) for a in (question.answers, question.wrong_answers))
        if right is not None and wrong is not None and (both := set(right[0].tolist()) & set(wrong[0].tolist())):
            shown = ", ".join(reading.tokens(sorted(both)))
            raise DataError(f"{shown} is both a right and a wrong answer", "keep it on one side")
        return right, wrong

    def _answers(self, reading: Reading, text: str, answers: Sequence[str]) -> Answers:
        ids = [self._answer(reading, text, answer) for answer in answers if answer]
        return torch.tensor([list(dict.fromkeys(ids))]) if ids else None

    def _answer(self, reading: Reading, text: str, answer: str) -> int:
        ids = reading.follow(text, answer)
        if ids is not None and len(ids) == 1 and reading.known(ids):
            return ids[0]
        what = "merges with the prompt's last token" if ids is None else f"is {len(ids)} tokens here"
        if ids is not None and not reading.known(ids):
            what = "is no word of the tokenizer"
        spaced = f" {answer.strip()}"
        fits = len(reading.follow(text.rstrip(), spaced) or ()) == 1
        cure = f"begin it with a space: {spaced!r} is one token" if fits else "use an answer of one token"
        raise DataError(f"the answer {answer!r} {what}", cure)

    def _shown(self, reading: Reading, prompts: Prompts) -> list[str]:
        return list(reading.tokens(prompts.ids[0].tolist()))


def examples(subject: Subject, pairs: Pairs) -> list[Example]:
    """Pairs as text. A row whose text would be read as other tokens, or judged elsewhere, is left out."""
    reading = Reading(subject.tokenizer)
    found = (_example(reading, pairs, row) for row in range(len(pairs)))
    return [example for example in found if example is not None]


def _example(reading: Reading, pairs: Pairs, row: int) -> Example | None:
    ids = [prompts.ids[row][prompts.mask[row]].tolist() for prompts in (pairs.clean, pairs.corrupt)]
    clean, corrupt = (_text(reading, each) for each in ids)
    answers = [
        [_after(reading, clean, int(each)) for each in side[row] if each >= 0] for side in (pairs.right, pairs.wrong)
    ]
    same = [list(reading.ids(text)) for text in (clean, corrupt)] == ids
    if not same or reading.judged(clean, None) != int(pairs.clean.at[row]) or None in (*answers[0], *answers[1]):
        return None
    right, wrong = ([text for text in side if text is not None] for side in answers)
    return Example(clean=clean, corrupt=corrupt, answers=right, wrong_answers=wrong)


def _text(reading: Reading, ids: list[int]) -> str:
    return str(reading.tokenizer.decode(ids[len(reading.prefix) : len(ids) - len(reading.suffix)]))


def _after(reading: Reading, clean: str, token: int) -> str | None:
    """The text that adds just this token to the prompt."""
    bare = str(reading.tokenizer.decode([token]))
    return next((text for text in (bare, f" {bare}") if reading.follow(clean, text) == (token,)), None)
