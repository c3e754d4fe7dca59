"""Small tokenizers of the kinds that models have, trained in memory on the words of the tasks themselves."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from subcircuit import plugins

__all__ = ["KINDS", "byte_level", "from_words", "two_digits", "with_bos", "word_pieces"]

SIZE = 12_000  # more than there are words, so that each becomes one token


@cache
def corpus() -> tuple[str, ...]:
    """Every text that a task module holds, with every word also after a space, and years and digits."""
    modules = [import_module(f"subcircuit.tasks.{name.replace('-', '_')}") for name in plugins.names("tasks")]
    texts = [text for module in modules for value in vars(module).values() for text in _texts(value)]
    words = {word for text in texts for word in text.replace("{", " ").replace("}", " ").split()}
    years = [f"from {year} to" for year in range(1100, 1900)]
    pairs = [f"17{digits:02}" for digits in range(100)]
    return tuple(texts) + tuple(f"a {word} {word}" for word in sorted(words)) * 3 + (*years, *pairs)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for item in value.values() for text in _texts(item))
    elif isinstance(value, tuple | list):
        yield from (text for item in value for text in _texts(item))
    elif is_dataclass(value) and not isinstance(value, type):
        yield from (text for field in fields(value) for text in _texts(getattr(value, field.name)))


@cache
def byte_level(*, without: tuple[str, ...] = ()) -> PreTrainedTokenizerBase:
    """Byte-level BPE, digits one by one, nothing added: as SmolLM2. The words in `without` stay several tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    texts = [text for text in corpus() if not any(word in text for word in without)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=SIZE, initial_alphabet=alphabet))
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@cache
def two_digits() -> PreTrainedTokenizerBase:
    """Byte-level BPE that cuts a year in two, as GPT-2 mostly does."""
    backend = Tokenizer(models.BPE())
    cut = Regex(r" ?[A-Za-z]+| ?\d{1,2}|\s+(?!\S)|\s+| ?[^\sA-Za-z\d]+")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(cut, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=SIZE, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    backend.train_from_iterator(corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|end|>", eos_token="<|end|>", unk_token="<|end|>"
    )


@cache
def with_bos() -> PreTrainedTokenizerBase:
    """Spaces as parts of words and a BOS in front of every text, as Llama 2 and Gemma."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Punctuation()]
    )
    backend.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=SIZE, special_tokens=["<unk>", "<s>", "</s>"])
    backend.train_from_iterator(corpus(), trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@cache
def word_pieces() -> PreTrainedTokenizerBase:
    """Lower-cased word pieces between [CLS] and [SEP], as BERT."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend.train_from_iterator(corpus(), trainers.WordPieceTrainer(vocab_size=SIZE, special_tokens=specials))
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), specials, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def from_words(*words: str) -> PreTrainedTokenizerBase:
    """One token a word, cut at spaces; others are unknown."""
    vocab = {word: index for index, word in enumerate(("<unk>", *words))}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


KINDS: Mapping[str, Callable[[], PreTrainedTokenizerBase]] = {
    "byte-level": byte_level,
    "two-digits": two_digits,
    "with-bos": with_bos,
    "word-pieces": word_pieces,
}
