"""The tutorial on debiasing, run on a tiny model: its first classifier goes by gender, its last does not."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from subcircuit.features.biographies import write_biographies
from subcircuit.tasks._base import Split
from tiny import tiny

PAGE = (Path(__file__).parents[2] / "docs" / "debiasing.md").read_text(encoding="utf-8")
BLOCKS = [text for kind, text in re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)]


WORDS = pre_tokenizers.Whitespace()


def words_of(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word, _ in WORDS.pre_tokenize_str(text)}


def planted_directions(words: Sequence[str], width: int) -> Tensor:
    """What words mean: one direction tells the occupation, a longer one the gender, names and pronouns first."""
    meanings = torch.zeros(len(words), width)
    splits: tuple[Split, ...] = ("train", "test")
    groups = [write_biographies(400, split) for split in splits]
    for coordinate, length, kind in ((0, 2.0, "label"), (1, 3.0, "hers")):
        sides = [
            words_of(
                text for each in groups for text, on in zip(each.texts, getattr(each, kind), strict=True) if on == side
            )
            for side in (False, True)
        ]
        for at, word in enumerate(words):
            meanings[at, coordinate] = length * (int(word in sides[1] - sides[0]) - int(word in sides[0] - sides[1]))
    return meanings


def save_reader(folder: Path) -> Path:
    """A tiny model with a token for every word of the biographies, and meanings planted in its embeddings."""
    splits: tuple[Split, ...] = ("train", "test")
    texts = [text for split in splits for text in write_biographies(400, split).texts]
    words = ["<unk>", *sorted(words_of(texts))]
    backend = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = WORDS
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>").save_pretrained(folder)
    model = tiny("gpt2", vocab_size=len(words), n_positions=128).model
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight *= 0.01 if "c_proj" in name or "wpe" in name else 1  # words stay what they are
        model.transformer.wte.weight += planted_directions(words, model.config.n_embd)
    model.save_pretrained(folder)
    return folder


def test_the_page_runs(tmp_path: Path) -> None:
    smaller = {
        "smollm2-135m": str(save_reader(tmp_path / "reader")),
        "6.resid": "1.resid",
        "features=512": "features=96",
    }
    told: dict[str, Any] = {}
    for text in BLOCKS:
        for name, other in smaller.items():
            text = text.replace(name, other)
        exec(text, told)
    table = told["table"]
    assert table["ORIGINAL"].worst < 0.4 and table["ORIGINAL"].spurious > 0.7 and table["ORACLE"].worst > 0.8
    again = table["CircuitLasso, learned again"]
    assert again.worst > table["ORIGINAL"].worst + 0.3 and again.spurious < 0.65
    assert table["random, learned again"].worst < again.worst
    assert len(table) == 7
