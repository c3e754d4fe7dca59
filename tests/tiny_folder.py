"""A study in files: a planted model as a folder with its tokenizer, and prompts whose answers that model gives."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import tiny_files
from subcircuit.subject import Prompts
from tiny import planted, random_prompts

__all__ = ["Study", "study"]

SPLITS = {"train": 32, "validation": 16, "test": 24}


@dataclass(frozen=True)
class Study:
    """What a command line needs."""

    model: Path
    prompts: Path

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.prompts.read_text().splitlines()]


def study(folder: Path, family: str = "llama") -> Study:
    """A planted model and a prompts file below `folder`."""
    subject = planted(family)
    tokenizer = tiny_files.tokenizer()
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    usable = range(len(tiny_files.SPECIALS), len(tokenizer))
    n = sum(SPLITS.values())
    clean, corrupt = (random_prompts(subject, n, length=7, seed=seed) for seed in (0, 1))
    clean, corrupt = (Prompts(each.ids.clamp(min=usable.start), each.mask, each.at) for each in (clean, corrupt))
    with torch.no_grad():
        right, wrong = (subject.logits(each)[:, usable].topk(2).indices + usable.start for each in (clean, corrupt))
    splits = [split for split, count in SPLITS.items() for _ in range(count)]
    rows = [
        {
            "clean": " ".join(words[token] for token in clean.ids[row]),
            "corrupt": " ".join(words[token] for token in corrupt.ids[row]),
            "answers": [f" {words[right[row, 0]]}"],
            "wrong_answers": [f" {words[next(token for token in wrong[row].tolist() if token != right[row, 0])]}"],
            "split": splits[row],
        }
        for row in range(n)
    ]
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Study(tiny_files.save(subject, folder / "model"), prompts)
