"""A text as a question to the model: a template around it, the words that stand for the labels, and where words lie.

An answer is judged by the label words alone: the probability of a label is its share among them. Without label words
the model's own next token is its answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from subcircuit.concepts.texts import words_of
from subcircuit.errors import DataError, UnsupportedModel, UsageError
from subcircuit.prompts import Prompts

__all__ = ["Frame", "Framed", "Unit", "Word", "label_probabilities"]

Unit = Literal["word", "token"]
TEXT, MASK = "{text}", "{mask}"


class Frame(BaseModel):
    """How texts are put to the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str = Field(default=TEXT, description="{text} is the text, {mask} an encoder's mask token")
    labels: dict[str, str] = Field(default_factory=dict, description="label -> the one token that stands for it")
    tokens: int = Field(default=128, description="tokens of a text; what follows them is cut", ge=1)
    unit: Unit = Field(default="word", description="word: the state at a word's last token; token: at each token")

    def checked(self) -> "Frame":
        """Itself. Raises UsageError for a template without one text, or a single label."""
        if self.template.count(TEXT) != 1:
            raise UsageError(f"the template '{self.template}' has {self.template.count(TEXT)} {TEXT}", "it takes one")
        if len(self.labels) == 1:
            raise UsageError(f"'{next(iter(self.labels))}' is the only label", "give two labels or more, or none")
        return self

    def answers(self, tokenizer: PreTrainedTokenizerBase) -> Int[Tensor, " label"]:
        """The tokens of the labels, in their order. Raises UsageError for a word that is not one token of its own."""
        found = {
            label: tokenizer(word, add_special_tokens=False, verbose=False).input_ids
            for label, word in self.labels.items()
        }
        for label, ids in found.items():
            if len(ids) != 1:
                pieces = tokenizer.convert_ids_to_tokens(ids)
                raise UsageError(
                    f"'{self.labels[label]}', which stands for '{label}', is {len(ids)} tokens: {pieces}",
                    "choose a word of one token, with the space in front that it has after the template",
                )
        if len({ids[0] for ids in found.values()}) < len(found):
            raise UsageError(f"two of the words {list(self.labels.values())} are one token", "choose words that differ")
        return torch.tensor([ids[0] for ids in found.values()], dtype=torch.long)

    def around(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> "Framed":
        """The prompts of these texts. Raises DataError for a text without a token of its own, naming it."""
        if not tokenizer.is_fast:
            raise UnsupportedModel("its tokenizer cannot say where in a text a token lies", "use a fast tokenizer")
        before, _, after = self._template(tokenizer).partition(TEXT)
        rows = [self._row(before, text, after, tokenizer, number) for number, text in enumerate(texts)]
        ids = torch.zeros(len(rows), max(len(row.ids) for row in rows), dtype=torch.long)
        mask, own = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
        for number, row in enumerate(rows):
            ids[number, : len(row.ids)] = torch.tensor(row.ids)
            mask[number, : len(row.ids)] = True
            own[number, [place for word in row.words for place in range(word.first, word.last + 1)]] = True
        prompts = Prompts(ids, mask, torch.tensor([row.at for row in rows]))
        return Framed(prompts, own, [row.words for row in rows])

    def _template(self, tokenizer: PreTrainedTokenizerBase) -> str:
        return self.template.replace(MASK, str(tokenizer.mask_token))

    def _row(self, before: str, text: str, after: str, tokenizer: PreTrainedTokenizerBase, number: int) -> "_Row":
        told = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False, verbose=False)
        ends = [end for _, end in told["offset_mapping"]]
        text = text[: ends[self.tokens - 1]] if len(ends) > self.tokens else text
        whole = tokenizer(before + text + after, return_offsets_mapping=True, verbose=False)
        ids, spans = list(whole.input_ids), whole["offset_mapping"]
        words = _words(text, len(before), spans, self.unit)
        if not words:
            raise DataError(f"text {number + 1}, '{text[:40]}', has no token of its own", "leave it out")
        masked = [place for place, token in enumerate(ids) if token == tokenizer.mask_token_id]
        at = masked[-1] if MASK in self.template else max(p for p, (start, end) in enumerate(spans) if end > start)
        return _Row(ids, at, words)


@dataclass(frozen=True)
class Word:
    """A word, or a token, of a text."""

    text: str
    place: int  # among the words of the text
    start: int  # in the text, in characters
    first: int  # position of its first token in the prompt
    last: int  # of its last one, whose state is the word's


@dataclass(frozen=True)
class _Row:
    ids: list[int]
    at: int
    words: list[Word]


@dataclass(frozen=True)
class Framed:
    """Prompts, and the words of their texts."""

    prompts: Prompts
    own: Bool[Tensor, "prompt pos"]  # tokens of the text, not of the template
    words: list[list[Word]]

    def __len__(self) -> int:
        return len(self.prompts)

    def rows(self, rows: Tensor) -> "Framed":
        """Some of them, cut to the longest."""
        prompts = self.prompts[rows]
        return Framed(prompts, self.own[rows, : prompts.ids.shape[1]], [self.words[row] for row in rows.tolist()])


def label_probabilities(logits: Float[Tensor, "prompt vocab"], answers: Tensor) -> Float[Tensor, "prompt label"]:
    """The labels' shares."""
    return logits[:, answers.to(logits.device)].softmax(-1)


def _words(text: str, shift: int, spans: Sequence[tuple[int, int]], unit: Unit) -> list[Word]:
    """Each word with the tokens that end in it; a word that only shares a token with what follows it has none."""
    owners: Mapping[int, int] = {
        shift + place: number for number, (start, end) in enumerate(words_of(text)) for place in range(start, end)
    }
    bounds = words_of(text)
    tokens: dict[int, list[int]] = {}
    for position, (start, end) in enumerate(spans):
        if end > start and end - 1 in owners and end - 1 >= shift:
            tokens.setdefault(owners[end - 1], []).append(position)
    found: list[Word] = []
    for number, places in tokens.items():
        start, end = bounds[number]
        if unit == "word":
            found.append(Word(text[start:end], len(found), start, places[0], places[-1]))
            continue
        for place in places:
            left = max(spans[place][0] - shift, 0)
            piece = text[left : spans[place][1] - shift].strip()
            found.append(Word(piece, len(found), left, place, place))
    return found
