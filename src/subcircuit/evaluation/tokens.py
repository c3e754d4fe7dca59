"""Token by token: what a circuit's nodes do at every position of a few prompts, layer by layer, branch by branch.

The nodes of a branch are open by one gate per position, and everything outside the circuit stays closed. All gates
move together from closed to open; the derivative by a gate, averaged on the way, is the effect of the circuit's nodes
at that place (integrated gradients, Sundararajan et al. 2017). So the effects of a prompt add up to its `gain`, what
it has from the whole circuit above the empty one, as far as the points on the way are enough. Of a causal tracing,
open means replaced, and what moves is the search's own metric. Of a circuit of edges the nodes are those that its
edges join, all edges among them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from subcircuit import metrics
from subcircuit.batching import batched
from subcircuit.circuit import Circuit
from subcircuit.errors import NumericalError, UnsupportedModel
from subcircuit.evaluation.controls import Evidence
from subcircuit.evaluation.edge_panel import panel_of
from subcircuit.evaluation.panel import Panel
from subcircuit.evaluation.setting import Result, Setting
from subcircuit.evaluation.traced_panel import TracedPanel
from subcircuit.files import load_record, save_record
from subcircuit.intervention import effective, masking
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs, Split, Task
from subcircuit.tasks._reading import Reading

__all__ = ["TokenEffects", "TokenRow", "token_effects"]

SCHEMA = 1
FIRST, WORST = 16, 4  # prompts: the first of the split, and those of the largest KL besides
STEPS = 8  # points on the way from closed to open
MOST = 100_000  # numbers in one file: of long prompts there are fewer
BATCH = 8
BRANCHES: Mapping[Kind, str] = {
    **dict.fromkeys((Kind.Q, Kind.K, Kind.V, Kind.CHANNEL), "attn"),
    **dict.fromkeys((Kind.NEURON, Kind.MLP_OUT), "mlp"),
}
Words = Callable[[Iterable[Tensor]], list[str]]
ByBranch = Mapping[str, Float[Tensor, "layer prompt pos"]]


class TokenRow(BaseModel):
    """One pair of prompts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    row: int = Field(description="as in the prompts of evidence.json")
    first: bool = Field(description="among the first of the split; else chosen for its KL")
    kl: float = Field(description="as in evidence.json")
    clean: list[str] = Field(description="tokens; a leading space is a dot")
    corrupt: list[str] = Field(description="tokens, as many")
    at: int = Field(description="judged position")
    answers: list[str]
    wrong_answers: list[str]
    gain: float = Field(description="what the open circuit has more than the closed one, in the metric")
    effects: dict[str, list[list[float]]] = Field(description="attn, mlp: by layer and position; they add up to gain")


class TokenEffects(Result):
    """`tokens.json`: some prompts of the evidence, with the circuit's effect at every position."""

    schema_version: int = SCHEMA
    split: str
    pairs: int = Field(description="of the evidence; the rows are some of them")
    seed: int
    metric: str = Field(description="logit-difference; of a causal tracing, its own")
    steps: int = Field(description="points that the gradients are averaged over")
    prompts: list[TokenRow]

    def of(self, found: Evidence) -> bool:
        """Whether these are prompts of that evidence, and of the same circuit."""
        kl = found.prompts["kl"]
        drawn = [(each.split, each.pairs, each.seed) for each in (self, found)]
        return drawn[0] == drawn[1] and all(each.row < len(kl) and each.kl == kl[each.row] for each in self.prompts)

    def save(self, folder: str | Path) -> None:
        """Write `tokens.json`, whole or not at all. Raises ResourceError."""
        save_record(self, Path(folder) / "tokens.json", indent=None)

    @classmethod
    def load(cls, folder: str | Path) -> "TokenEffects":
        """Read it back. Raises DataError when it is missing or broken."""
        cure = f"run: subcircuit score {folder}"
        return load_record(cls, Path(folder) / "tokens.json", "a file of effects by token", missing=cure, broken=cure)


def token_effects(
    subject: Subject,
    circuit: Circuit,
    task: Task,
    found: Evidence,
    *,
    cache_bytes: int = 2 << 30,
    on_step: Callable[[str], None] = lambda name: None,
) -> TokenEffects:
    """Effects by token on some prompts of the evidence `found`: the first ones, and those of the largest KL.

    Takes `STEPS` forward and backward passes over these prompts, and a few forward ones. Raises NumericalError when a
    gradient is not finite, DataError when the task cannot give the prompts.
    """
    origin, nodes = circuit.origin, replace(circuit, edges=None)
    discovery = task.pairs(subject.tokenizer, origin.pairs["train"], seed=origin.seed, split="train")
    pairs = task.pairs(subject.tokenizer, found.pairs, seed=found.seed, split=cast(Split, found.split))
    rows = _chosen(found.prompts["kl"], len(subject), pairs.clean.lengths)
    if origin.reference == "resample":  # what a prompt is resampled from are the others
        here = torch.tensor(rows)
    else:
        here, pairs = torch.arange(len(rows)), pairs[rows]
    panel = panel_of(nodes)(subject, nodes, discovery, pairs, BATCH, cache_bytes, found.seed, on_step)
    on_step("token by token")
    effects, gains = _integrated(panel, here)
    row = _describer(panel, effects, gains, found)
    return TokenEffects(
        setting=Setting.of(nodes, panel.ablated),
        split=found.split,
        pairs=found.pairs,
        seed=found.seed,
        metric=str(origin.settings["metric"]) if isinstance(panel, TracedPanel) else "logit-difference",
        steps=STEPS,
        prompts=[row(at, number) for at, number in zip(here.tolist(), rows, strict=True)],
    )


def _describer(panel: Panel, effects: ByBranch, gains: Tensor, found: Evidence) -> Callable[[int, int], TokenRow]:
    """What is known of the panel's prompt `at`, which is prompt `number` of the evidence."""
    reading, pairs = _words(panel.subject), panel.pairs

    def row(at: int, number: int) -> TokenRow:
        length = int(pairs.clean.lengths[at])
        return TokenRow(
            row=number,
            first=number < FIRST,
            kl=found.prompts["kl"][number],
            clean=reading(pairs.clean.ids[at, :length]),
            corrupt=reading(pairs.corrupt.ids[at, :length]),
            at=int(pairs.clean.at[at]),
            answers=_answers(reading, pairs, at, "right"),
            wrong_answers=_answers(reading, pairs, at, "wrong"),
            gain=_short(float(gains[at])),
            effects={
                branch: [[_short(value) for value in layer] for layer in values[:, at, :length].tolist()]
                for branch, values in effects.items()
            },
        )

    return row


def _answers(reading: Words, pairs: Pairs, at: int, side: Literal["right", "wrong"]) -> list[str]:
    """Of one prompt; tokens of a longer answer in one."""
    if pairs.continued is None:
        return reading(getattr(pairs, side)[at])
    return [word for answer in getattr(pairs.continued, side)[at] if (word := "".join(reading(answer)))]


def _chosen(kl: Sequence[float], layers: int, lengths: Int[Tensor, " prompt"]) -> list[int]:
    """The first rows and the worst of the others, in this order; fewer where prompts are long."""
    first = list(range(min(FIRST, len(kl))))
    worst = sorted(range(len(first), len(kl)), key=lambda row: -kl[row])[:WORST]
    room = max(1, MOST // (2 * layers * int(lengths.max())))
    return first[: max(1, room - len(worst))] + worst[: room - 1]


def _integrated(panel: Panel, rows: Int[Tensor, " row"]) -> tuple[ByBranch, Float[Tensor, " prompt"]]:
    """Effects and gains of these of the panel's prompts. Raises NumericalError."""
    lengths, layers = panel.pairs.clean.lengths, len(panel.subject)
    branches = sorted({BRANCHES[site.kind] for site in panel.inner})
    shape = (layers, *panel.pairs.clean.ids.shape)
    effects, gains = {branch: torch.zeros(shape) for branch in branches}, torch.zeros(shape[1])

    def add(items: Int[Tensor, " item"]) -> None:
        batch = rows[items]
        size = (layers, len(batch), int(lengths[batch].max()))
        with torch.no_grad():
            closed, opened = (_value(panel, batch, {b: torch.full(size, end) for b in branches}) for end in (0.0, 1.0))
        summed = {branch: torch.zeros(size) for branch in branches}
        for step in range(STEPS):
            gates = {branch: torch.full(size, (step + 0.5) / STEPS).requires_grad_() for branch in branches}
            value = _value(panel, batch, gates).sum()
            for branch, slope in zip(branches, torch.autograd.grad(value, list(gates.values())), strict=True):
                summed[branch] += slope / STEPS
        for branch, values in summed.items():  # only now, for memory may have run out at any point
            effects[branch][:, batch, : size[2]] = values
        gains[batch] = (opened - closed).cpu()

    batched(add, lengths[rows], BATCH)
    if not all(values.isfinite().all() for values in (*effects.values(), gains)):
        raise NumericalError("an effect by token is not finite", "use float32 weights, or check the prompts")
    return effects, gains


def _value(panel: Panel, rows: Int[Tensor, " row"], gates: ByBranch) -> Float[Tensor, " row"]:
    """The metric of these prompts with the circuit's nodes open by these gates: 1 = open."""
    opened = {
        site: share * gates[BRANCHES[site.kind]][site.layer][..., None] for site, share in _open(panel, rows).items()
    }
    if isinstance(panel, TracedPanel):
        left = {site: 1 - share for site, share in opened.items()}
        return panel.replacing.change(panel.replacing.run_at(rows, left), rows, smooth=True)
    batch = panel.pairs[rows]
    with masking(panel.subject, opened, panel.reference(rows)):
        logits = panel.subject.logits(batch.clean)
    return metrics.logit_difference(logits, batch.right, batch.wrong)


def _open(panel: Panel, rows: Int[Tensor, " row"]) -> dict[Site, Float[Tensor, "*row_pos unit"]]:
    """1 where the circuit has a node, at the sites where masks act; position by position where it differs by them."""
    if not isinstance(panel, TracedPanel):
        return {site: kept.float() for site, kept in panel.inner.items()}
    rest = {site: 1 - kept.float() for site, kept in panel.replaced.items()}
    return {site: 1 - panel.replacing.at(rows, left) for site, left in effective(panel.subject, rest).items()}


def _words(subject: Subject) -> Words:
    """Token ids as the prompt doctor writes them, -1 left out; the numbers themselves where there is no tokenizer."""

    def known(ids: Iterable[Tensor]) -> list[int]:
        return [int(each) for each in ids if each >= 0]

    try:
        reading = Reading(subject.tokenizer)
    except UnsupportedModel:
        return lambda ids: [str(each) for each in known(ids)]
    return lambda ids: list(reading.tokens(known(ids)))


def _short(value: float) -> float:
    return float(f"{value:.4g}")
