"""What searches in models too large to try would take on graphics cards, by formulas alone: nothing here was measured.

A copy of the model lies on as few cards as hold it, layer after layer, so that one of them works at a time. Copies
share the prompts of each pass. Speeds are the assumed ones of `pace`.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from subcircuit import plugins
from subcircuit.planning.estimate import Estimate, estimate, work_of
from subcircuit.planning.machine import Machine
from subcircuit.planning.shape import Shape
from subcircuit.planning.work import Load
from subcircuit.subject import Subject

__all__ = ["CARDS", "METHODS", "MODELS", "Row", "markdown", "rows", "shape"]

MODELS: dict[str, dict[str, Any]] = {  # the sizes of Llama 3.1
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "70B": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
}
SHARED: dict[str, Any] = {"num_key_value_heads": 8, "vocab_size": 128256}
METHODS = ("node-pruning", "attribution-patching", "edge-attribution")
CARDS = (1, 8, 64)
CARD = 80e9  # bytes
PROMPT = (24, 20.0)  # tokens, of the longest and the mean prompt


@dataclass(frozen=True)
class Row:
    """One search on some cards."""

    model: str
    method: str
    cards: int
    copies: int  # 0: no number of these cards holds the model
    plan: Estimate | None

    @property
    def minutes(self) -> tuple[float, float] | None:
        """Wall-clock time, at least and at most."""
        return None if self.plan is None else (self.plan.seconds[0] / 60, self.plan.seconds[1] / 60)

    @property
    def card_hours(self) -> float | None:
        """At most, of all cards together: what is paid for."""
        return None if self.minutes is None else self.cards * self.minutes[1] / 60


def shape(model: str) -> Shape:
    """The sizes of one of MODELS, in bfloat16; its weights are nowhere."""
    with torch.device("meta"):
        hollow = AutoModelForCausalLM.from_config(LlamaConfig(**MODELS[model], **SHARED))
    return Shape.of(Subject(hollow, name=model), "bfloat16")


def rows() -> list[Row]:
    """Every model by every method on every number of cards."""
    found = []
    for model in MODELS:
        sizes = shape(model)
        for method in METHODS:
            found += [_row(sizes, method, cards) for cards in CARDS]
    return found


def _row(sizes: Shape, method: str, cards: int) -> Row:
    own: Any = plugins.load("methods", method)()
    work = work_of(method, own, sizes, Load(own.pairs, own.validation, *PROMPT))
    card = Machine("cuda", CARD, 1, 1e12)
    each = 1
    while each <= cards:
        machine, spread = replace(card, devices=each), each > 1
        copies = cards // each
        plan = estimate(method, work, machine, processes=copies, spread=spread)
        if plan.fits:
            return Row(sizes.name, method, cards, copies, plan)
        each *= 2
    return Row(sizes.name, method, cards, 0, None)


def markdown() -> str:
    """The rows as the table of `docs/scale.md`."""
    lines = [
        "| model | method | cards | copies of the model | GB on each card | minutes | card hours at most |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows():
        if row.plan is None or row.minutes is None or row.card_hours is None:
            lines.append(f"| {row.model} | {row.method} | {row.cards} | does not fit | | | |")
            continue
        low, high = row.minutes
        lines.append(
            f"| {row.model} | {row.method} | {row.cards} | {row.copies} | {row.plan.peak / 1e9:.0f} "
            f"| {low:.2g} to {high:.2g} | {row.card_hours:.2g} |"
        )
    return "\n".join(lines)
