"""Programs compiled to transformers (tracr; Lindner et al. 2023): which heads, MLPs and edges do the work is read off.

The weights and the truth are files of the package, written by `scripts/compile_programs.py`. An edge is tagged by what
it carries: something that depends on the prompt's tokens, on the position alone, or on nothing at all. Patching one
prompt's activations into another can only ever show edges of the first sort.

A program whose output is a token has a logit of 1 for it and of 0 for all others. A program whose output is a number y
has a token for each value v that y can take, with the logit `-50 (y - v)^2` up to a term that all of them share: the
top token is the nearest value, and the log odds of two values are linear in y.
"""

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from subcircuit.compiled import CompiledConfig, CompiledModel
from subcircuit.errors import DataError, UnknownName
from subcircuit.ground_truth.tiny import word_tokenizer
from subcircuit.subject import Prompts, Subject
from subcircuit.tasks._base import Pairs, Split

__all__ = ["Carries", "Program", "ProgramFile", "ProgramTask", "programs"]

FOLDER = Path(__file__).parent.parent / "data"
BOS, PAD = "<bos>", "<pad>"
SHARES: Mapping[Split, range] = {"train": range(6), "validation": range(6, 8), "test": range(8, 10)}
PATIENCE = 1000  # draws without a new pair before a split is taken to be exhausted

Carries = Literal["token", "position", "constant"]


class ProgramFile(BaseModel):
    """What is known of a compiled program besides its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    about: str
    config: dict[str, Any]
    vocabulary: list[str]  # a token's place is its id
    alphabet: list[str]  # what prompts are made of
    length: int  # tokens in the longest prompt
    varied: bool  # shorter prompts are filled up with a padding token, which the program takes for no token
    first: int  # the first position at which the output means something; the start token has position 0
    basis: list[str]  # what each dimension of the residual stream stands for
    nodes: list[str]  # heads and MLPs that do something
    edges: dict[str, Carries]  # that do something
    idle: list[str]  # edges that the compiler wires for selections that are empty, which no judged position has
    decoded: list[list[str]]  # what tracr itself made of the examples


@dataclass(frozen=True)
class Program:
    """One compiled program."""

    name: str

    def __post_init__(self) -> None:
        if self.name not in programs():
            raise UnknownName("program", self.name, programs())

    @cached_property
    def file(self) -> ProgramFile:
        return ProgramFile.model_validate_json((FOLDER / f"{self.name}.json").read_text(encoding="utf-8"))

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Weights by name, and `examples.ids` and `examples.stream`: what tracr's last layer leaves of some prompts."""
        return load_file(FOLDER / f"{self.name}.safetensors")

    def subject(self) -> Subject:
        """The program as a model, with a tokenizer whose tokens are words."""
        model = CompiledModel(CompiledConfig(**self.file.config))
        weights = {name: tensor for name, tensor in self.tensors.items() if not name.startswith("examples.")}
        model.load_state_dict(weights)
        return Subject(model, word_tokenizer(self.file.vocabulary), name=f"compiled-{self.name}")

    def run(self, tokens: Sequence[str]) -> list[str]:
        """What the program is meant to answer, token by token; no model is asked."""
        return MEANT[self.name](list(tokens))


@dataclass(frozen=True)
class ProgramTask:
    """Pairs of prompts between which a program's answer differs, each judged at one position, drawn at random.

    The corrupted prompt is drawn on its own, its length too, or as often is the clean one with some tokens redrawn.
    Where it ends before the judged position, any other answer is the wrong one. The splits share no clean prompt.
    """

    program: str

    @property
    def name(self) -> str:
        return self.program

    def pairs(self, tokenizer: PreTrainedTokenizerBase, n: int, *, seed: int = 0, split: Split = "train") -> Pairs:
        """`n` pairs. Raises DataError when the program has too few prompts for so many."""
        source = Program(self.program)
        rng = random.Random(f"{self.program}/{split}/{seed}")
        found: dict[tuple[str, ...], _Row] = {}
        idle = 0
        while len(found) < n and idle < PATIENCE:
            row = _draw(source, rng)
            key = (*row.clean, str(row.at))
            new = _share(row.clean) in SHARES[split] and row.right != row.wrong and key not in found
            idle = 0 if new else idle + 1
            if new:
                found[key] = row
        if len(found) < n:
            raise DataError(
                f"the program {self.program} has no {n} pairs in its {split} split, only {len(found)} were found",
                f"ask for at most {len(found)}",
            )
        return _to_pairs(source, list(found.values()))


def programs() -> list[str]:
    """The names of all compiled programs."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


@dataclass(frozen=True)
class _Row:
    clean: tuple[str, ...]
    corrupt: tuple[str, ...]
    at: int  # position in the prompt with its start token
    right: str
    wrong: str


def _draw(source: Program, rng: random.Random) -> _Row:
    file = source.file
    clean = _prompt(file, rng)
    corrupt = _prompt(file, rng)
    if rng.random() < 0.5:
        corrupt = tuple(rng.choice(file.alphabet) if rng.random() < 0.3 else token for token in clean)
    at = rng.randint(min(file.first, len(clean)), len(clean))
    right = source.run(clean)[at - 1]
    others = [answer for answer in _answers(source) if answer != right]
    wrong = source.run(corrupt)[at - 1] if at <= len(corrupt) else rng.choice(others)
    return _Row(clean, corrupt, at, right, wrong)


def _prompt(file: ProgramFile, rng: random.Random) -> tuple[str, ...]:
    length = rng.randint(1, file.length) if file.varied else file.length
    return tuple(rng.choice(file.alphabet) for _ in range(length))


def _answers(source: Program) -> list[str]:
    """Tokens that a program may answer with."""
    file = source.file
    return [token for token in file.vocabulary if token not in (BOS, PAD, *file.alphabet)] or file.alphabet


def _share(clean: tuple[str, ...]) -> int:
    """A prompt's split, as a number from 0 to 9."""
    return zlib.crc32(" ".join(clean).encode()) % 10


def _to_pairs(source: Program, rows: Sequence[_Row]) -> Pairs:
    file = source.file
    ids = {token: place for place, token in enumerate(file.vocabulary)}
    at = torch.tensor([row.at for row in rows])

    def prompts(sides: Sequence[tuple[str, ...]]) -> Prompts:
        filled = [[BOS, *side, *[PAD] * (file.length - len(side))] for side in sides]
        tokens = torch.tensor([[ids[token] for token in prompt] for prompt in filled])
        return Prompts(tokens, torch.ones_like(tokens, dtype=torch.bool), at)

    return Pairs(
        prompts([row.clean for row in rows]),
        prompts([row.corrupt for row in rows]),
        torch.tensor([[ids[row.right]] for row in rows]),
        torch.tensor([[ids[row.wrong]] for row in rows]),
    )


def _shares_of_x(tokens: list[str]) -> list[str]:
    return [str(Fraction(tokens[:n].count("x"), n)) for n in range(1, len(tokens) + 1)]


def _patterns(tokens: list[str]) -> list[str]:
    return [str(tokens[max(0, n - 3) : n] == ["a", "b", "c"]) for n in range(1, len(tokens) + 1)]


MEANT: Mapping[str, Callable[[list[str]], list[str]]] = {
    "detect-pattern": _patterns,
    "frac-prevs": _shares_of_x,
    "reverse": lambda tokens: tokens[::-1],
    "sort": sorted,
}
