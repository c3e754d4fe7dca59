"""A tiny model, a tokenizer of words, labelled texts, and states in planted clusters."""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

import tiny_files
from subcircuit.concepts.framing import Frame
from subcircuit.concepts.texts import Corpus
from subcircuit.subject import Subject
from tiny import tiny

__all__ = ["FRAME", "LETTERS", "clusters", "corpus", "spoken", "told", "write_corpus"]

FRAME = Frame(template="0 {text} 1", labels={"left": "2", "right": "3"}, tokens=12)
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]


@cache
def spoken(family: str = "llama") -> Subject:
    """A random model that reads letters and digits."""
    return Subject(tiny(family).model, tiny_files.tokenizer(), name=f"tiny-{family}")


def corpus(n: int = 40, seed: int = 0, *, labels: bool = True) -> Corpus:
    """Texts of three to eight letters; the label is the first one's half of the alphabet."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 9, (n,), generator=generator).tolist()
    texts = [" ".join(LETTERS[i] for i in torch.randint(26, (each,), generator=generator)) for each in lengths]
    sides = tuple("left" if text[0] < "n" else "right" for text in texts)
    return Corpus(tuple(texts), sides if labels else None)


def told(subject: Subject, texts: Corpus) -> Corpus:
    """The same texts, each labelled as the model answers."""
    framed, answers = FRAME.around(texts.texts, subject.tokenizer), FRAME.answers(subject.tokenizer)
    with torch.no_grad():
        said = subject.logits(framed.prompts)[:, answers].argmax(-1).tolist()
    return Corpus(texts.texts, tuple(list(FRAME.labels)[each] for each in said))


def write_corpus(path: Path, texts: Corpus) -> Path:
    assert texts.labels is not None
    rows = "".join(f"{text},{label}\n" for text, label in zip(texts.texts, texts.labels, strict=True))
    path.write_text("text,label\n" + rows)
    return path


def clusters(n: int = 1200, codes: int = 12, width: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    """States about well separated centres, all of them far from the origin; and the centre of each."""
    generator = torch.Generator().manual_seed(seed)
    centres = 4 * torch.randn(codes, width, generator=generator)
    mine = torch.arange(n) % codes
    return centres[mine] + 0.2 * torch.randn(n, width, generator=generator) + 30.0, mine
