"""A task over random tokens for the tiny models: what it asks is what the full model says itself."""

from functools import cache

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from subcircuit.subject import Subject
from subcircuit.tasks._base import SPLITS, Pairs, Split
from tiny import VOCAB, planted, random_pairs

__all__ = ["RandomTask", "planted_study"]


class RandomTask:
    """Clean and corrupted random prompts; the tokenizer is not asked, for the tokens are drawn as ids."""

    name = "random"

    def __init__(self, subject: Subject, length: int = 6) -> None:
        self.subject, self.length = subject, length

    def pairs(self, tokenizer: PreTrainedTokenizerBase, n: int, *, seed: int = 0, split: Split = "train") -> Pairs:
        return random_pairs(self.subject, n, self.length, 10 * seed + SPLITS.index(split))


@cache
def planted_study(family: str = "llama") -> tuple[Subject, RandomTask]:
    """A model with a planted circuit, made once, and the task over it."""
    subject = Subject(planted(family).model, _tokenizer(), name=f"planted-{family}")
    return subject, RandomTask(subject)


@cache
def _tokenizer() -> PreTrainedTokenizerBase:
    words = Tokenizer(WordLevel({f"t{token}": token for token in range(VOCAB)}, unk_token="t0"))
    return PreTrainedTokenizerFast(tokenizer_object=words)
