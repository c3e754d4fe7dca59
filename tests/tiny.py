"""Tiny random and planted models, as the library's own ground truth has them, and what tests need besides."""

import torch

from subcircuit.ground_truth.planted import HEADS, NEURONS, planted
from subcircuit.ground_truth.tiny import CONFIGS, VOCAB, random_pairs, random_prompts, tiny
from subcircuit.subject import Prompts

__all__ = [
    "CONFIGS",
    "HEADS",
    "NEURONS",
    "NODES",
    "VOCAB",
    "planted",
    "random_pairs",
    "random_prompts",
    "shortened",
    "tiny",
]

NODES = (HEADS, NEURONS)


def shortened(prompts: Prompts) -> Prompts:
    """The same prompts, every row but the first cut by one to three tokens and padded on the right."""
    rows = torch.arange(len(prompts))
    lengths = prompts.lengths - torch.where(rows == 0, 0, 1 + rows % 3)
    mask = torch.arange(prompts.ids.shape[1]) < lengths[:, None]
    return Prompts(prompts.ids.masked_fill(~mask, 0), mask, prompts.at.minimum(lengths - 1))
