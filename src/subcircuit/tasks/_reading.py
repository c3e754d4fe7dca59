"""How a tokenizer reads a prompt: its tokens, the judged one, and the tokens an answer makes in its place.

A continuation is read *in context*: an answer is what `tokenizer(prompt + answer)` has more than `tokenizer(prompt)`.
That is right for leading spaces, digits, sentencepiece and word pieces alike, where tokenizing the answer alone is not.
"""

from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

__all__ = ["NotAPosition", "Reading"]

Ids = tuple[int, ...]


class NotAPosition(ValueError):
    """The row's judged position is not in its prompt. Caught by the doctor, which knows the row."""


class Reading:
    """A tokenizer with its own special tokens, and a memory of what it has read."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        bare = tuple(tokenizer("a", add_special_tokens=False).input_ids)
        full = tuple(tokenizer("a").input_ids)
        start = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
        self.prefix, self.suffix = full[:start], full[start + len(bare) :]
        self.mask = str(tokenizer.mask_token or "")
        # an encoder closes its text (SEP) and has something to fill in; a decoder may name a mask token it never uses
        self.encoder = bool(self.mask and self.suffix)
        self._seen: dict[str, Ids] = {}

    def read(self, texts: Iterable[str]) -> None:
        """Tokenize many texts at once, which is much quicker than one by one."""
        new = [text for text in dict.fromkeys(texts) if text not in self._seen]
        if new:
            self._seen.update(zip(new, map(tuple, self.tokenizer(new).input_ids), strict=True))

    def ids(self, text: str) -> Ids:
        """The tokens of a text with the tokenizer's default special tokens."""
        self.read([text])
        return self._seen[text]

    def open(self, text: str) -> str:
        """A prompt that waits for its next word: for an encoder, with a mask token where that word goes."""
        return f"{text} {self.mask}." if self.encoder else text

    def masked(self, text: str) -> bool:
        """Is this prompt judged at its mask token? Else at its last token."""
        return self.encoder or bool(self.mask and self.mask in text)

    def filled(self, text: str, answer: str) -> str:
        """The text that answers the prompt."""
        return text.replace(self.mask, answer.strip()) if self.masked(text) else text + answer

    def judged(self, text: str, position: int | str | None) -> int:
        """The index of the token whose logits are judged. Raises NotAPosition."""
        ids = self.ids(text)
        if self.masked(text):
            return self._at_mask(ids, position)
        if position is None:
            return len(ids) - len(self.suffix) - 1
        if isinstance(position, str):
            return self._last_of(text, position)
        if not -len(ids) <= position < len(ids):
            raise NotAPosition(f"position {position} is outside the prompt's {len(ids)} tokens")
        return position % len(ids)

    def context(self, text: str, at: int) -> str:
        """The prompt up to and with token `at`. Raises NotAPosition."""
        if self.masked(text) or at == len(self.ids(text)) - len(self.suffix) - 1:
            return text
        end = self._offsets(text)[at][1]
        if end == 0:  # where a special token that is not in the text is said to be
            where = "before any" if at < len(self.prefix) else "after the"
            raise NotAPosition(f"position {at} is a special token, {where} text")
        return text[:end]

    def follow(self, context: str, answer: str) -> Ids | None:
        """The tokens that `answer` adds after `context`; None where it changes the tokens of the context itself."""
        if self.mask and self.mask in context:
            return self._between(self.ids(context), self.ids(self.filled(context, answer)))
        base, full = self._body(context), self._body(context + answer)
        return full[len(base) :] if full[: len(base)] == base else None

    def single(self, word: str) -> bool:
        """Is this word, after another word, one token that the tokenizer knows?"""
        # the word is its own context, so that vocabularies of a few words can be asked
        ids = self._body(f"{word} {word} {word}"), self._body(f"{word} {word}")
        return ids[0][:-1] == ids[1] and ids[0][-1] == ids[1][-1] and self.known(ids[0][-1:])

    def known(self, ids: Sequence[int]) -> bool:
        """Is none of these the unknown token?"""
        return self.tokenizer.unk_token_id not in ids

    def tokens(self, ids: Iterable[int]) -> tuple[str, ...]:
        """Tokens for people: a leading space as a dot, control characters escaped."""
        return tuple(self._shown(token) for token in self.tokenizer.convert_ids_to_tokens(list(ids)))

    def _body(self, text: str) -> Ids:
        ids = self.ids(text)
        return ids[len(self.prefix) : len(ids) - len(self.suffix)]

    def _at_mask(self, ids: Ids, position: int | str | None) -> int:
        places = [i for i, token in enumerate(ids) if token == self.tokenizer.mask_token_id]
        if len(places) != 1:
            raise NotAPosition(f"the prompt has {len(places)} mask tokens ({self.mask}), and is judged at one")
        if isinstance(position, int) and position % len(ids) != places[0]:
            raise NotAPosition(f"position {position} is not the mask token, which is at {places[0]}")
        return places[0]

    def _last_of(self, text: str, part: str) -> int:
        start = text.rfind(part) if part else -1
        if start < 0:
            raise NotAPosition(f"the clean prompt has no {part!r} to be judged at")
        end = start + len(part)
        tokens = [i for i, (low, high) in enumerate(self._offsets(text)) if low < min(end, high)]
        if not tokens:
            raise NotAPosition(f"{part!r} is no part of a token")
        return max(tokens)

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        if not self.tokenizer.is_fast:
            raise NotAPosition("this tokenizer does not say which characters a token covers")
        offsets: list[tuple[int, int]] = self.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        return offsets

    def _between(self, masked: Ids, full: Ids) -> Ids | None:
        at = masked.index(int(self.tokenizer.mask_token_id))
        tail = len(masked) - at - 1
        same = full[:at] == masked[:at] and full[len(full) - tail :] == masked[at + 1 :]
        return full[at : len(full) - tail] if same else None

    def _shown(self, token: str) -> str:
        plain = token.translate({0x120: " ", 0x2581: " ", 0x10A: "\n", 0x109: "\t"})
        if not plain.isascii():  # byte-level vocabularies spell other letters in a code of their own
            plain = self.tokenizer.convert_tokens_to_string([token])
        return plain.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace(" ", "·")
