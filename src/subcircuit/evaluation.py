"""Evidence: how well a hard mask does on prompts nobody has looked at, with its controls beside it.

Faithfulness is `(circuit - empty) / (full - empty)` in mean logit difference, a ratio of means. Intervals are 95%
percentile bootstraps over prompts. Controls have the circuit's own size per kind: 20 random circuits, and the circuits
that one attribution pass and integrated gradients would choose.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from subcircuit import metrics
from subcircuit.circuit import Circuit, Size, matched
from subcircuit.errors import DataError
from subcircuit.gradients import Objective, attribution, coarsen
from subcircuit.intervention import Fill, Reference, acting, masked_logits
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs, Split, Task

__all__ = ["Estimate", "Evidence", "Scores", "evidence", "judge"]

SCHEMA = 1
RANKING = 64  # discovery prompts the attribution controls rank by, as in the start of node pruning
GAP = 1e-6  # below this the full and the empty circuit do the same, and faithfulness says nothing
PerPrompt = Mapping[str, Float[Tensor, " prompt"]]


class Estimate(BaseModel):
    """A mean over prompts and its 95% bootstrap interval."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: float
    low: float
    high: float


class Scores(BaseModel):
    """What a mask does to the model's answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kl: Estimate = Field(description="KL(full || circuit) in nats; 0 = the full model")
    faithfulness: Estimate | None = Field(description="1 = full model, 0 = empty circuit; null where they do the same")
    logit_difference: Estimate = Field(description="log odds of right against wrong answers")
    accuracy: Estimate = Field(description="share of prompts whose right answers beat the wrong ones")
    exact_match: Estimate = Field(description="share of prompts whose top token is the full model's")


class Evidence(BaseModel):
    """`evidence.json`: a circuit's scores on one split, beside the scores that would prove nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA
    split: str
    pairs: int
    reference: str
    seed: int
    sizes: dict[str, Size]
    full: Scores
    circuit: Scores
    empty: Scores
    attribution: Scores = Field(description="same size, by one attribution patching pass on the discovery prompts")
    integrated: Scores = Field(description="same size, by integrated gradients of KL on the discovery prompts")
    random: list[Scores] = Field(description="same size, drawn at random")
    prompts: dict[str, list[float]] = Field(description="the circuit's kl and logit_difference, prompt by prompt")

    @property
    def verdict(self) -> str:
        """`evidence` when the circuit is nearer to the full model than every control is, else `no evidence`."""
        rivals = [self.attribution, self.integrated, self.empty, *self.random]
        return "evidence" if all(self.circuit.kl.mean < rival.kl.mean for rival in rivals) else "no evidence"

    def save(self, folder: str | Path) -> None:
        """Write `evidence.json`, whole or not at all."""
        path = Path(folder) / "evidence.json"
        (partial := path.with_suffix(".json.part")).write_text(self.model_dump_json(indent=1), encoding="utf-8")
        os.replace(partial, path)

    @classmethod
    def load(cls, folder: str | Path) -> "Evidence":
        """Read it back. Raises DataError when it is missing or broken."""
        path = Path(folder) / "evidence.json"
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DataError(f"{path} is missing", f"run: subcircuit score {folder}") from error
        except ValidationError as error:
            raise DataError(f"{path} is not an evidence file: {error}", f"run: subcircuit score {folder}") from error


def evidence(
    subject: Subject,
    circuit: Circuit,
    task: Task,
    *,
    n: int = 200,
    split: Split = "test",
    controls: int = 20,
    seed: int = 0,
    batch_size: int = 32,
    cache_bytes: int = 2 << 30,
    on_step: Callable[[str], None] = lambda name: None,
) -> Evidence:
    """Score a circuit's hard mask on a split that played no part in finding it.

    `on_step` is told the name of each finished row. Raises DataError when the task cannot give the prompts.
    """
    sites = acting(circuit.kept)
    discovery = task.pairs(subject.tokenizer, circuit.origin.pairs["train"], seed=circuit.origin.seed, split="train")
    pairs = task.pairs(subject.tokenizer, n, seed=seed, split=split)

    def filled(by: Pairs, cache: int) -> Reference:
        fill = cast(Fill, circuit.origin.reference)
        return Reference(
            subject, fill, by.clean, by.corrupt, sites, source=discovery.clean, seed=seed, cache_bytes=cache
        )

    reference = filled(pairs, cache_bytes)
    full = masked_logits(subject, pairs.clean, {}, reference, batch_size=batch_size)

    def run(name: str, kept: Mapping[Site, Tensor]) -> PerPrompt:
        mask = {site: truth.float() for site, truth in kept.items()}
        found = judge(full, masked_logits(subject, pairs.clean, mask, reference, batch_size=batch_size), pairs)
        on_step(name)
        return found

    whole = judge(full, full, pairs)
    empty = run("empty", {site: torch.zeros_like(truth) for site, truth in circuit.kept.items()})

    def summary(found: PerPrompt) -> Scores:
        return _scores(found, whole, empty, seed)

    def rival(name: str, objective: Objective, steps: int) -> Scores:
        few = discovery[:RANKING]
        scores = attribution(
            subject, few, filled(few, cache_bytes), objective=objective, steps=steps, batch_size=batch_size
        )
        ranks = {site: score.abs() for site, score in coarsen(subject, scores, list(Kind)).items()}
        return summary(run(name, matched(circuit.kept, ranks)))

    chosen = run("circuit", circuit.kept)
    by_attribution = rival("attribution", "logit-difference", 1)
    by_integration = rival("integrated gradients", "kl", 5)
    generator = torch.Generator().manual_seed(seed)
    random = []
    for draw in range(controls):
        lots = {site: torch.rand(len(truth), generator=generator) for site, truth in circuit.kept.items()}
        random.append(summary(run(f"random {draw + 1}", matched(circuit.kept, lots))))
    return Evidence(
        split=split,
        pairs=len(pairs),
        reference=circuit.origin.reference,
        seed=seed,
        sizes={str(kind): size for kind, size in circuit.sizes.items()},
        full=summary(whole),
        circuit=summary(chosen),
        empty=summary(empty),
        attribution=by_attribution,
        integrated=by_integration,
        random=random,
        prompts={name: [round(x, 5) for x in chosen[name].tolist()] for name in ("kl", "logit_difference")},
    )


def judge(full: Float[Tensor, "prompt vocab"], logits: Float[Tensor, "prompt vocab"], pairs: Pairs) -> PerPrompt:
    """Every metric of one run, prompt by prompt."""
    return {
        "kl": metrics.kl(full, logits),
        "logit_difference": metrics.logit_difference(logits, pairs.right, pairs.wrong),
        "accuracy": metrics.accuracy(logits, pairs.right, pairs.wrong),
        "exact_match": metrics.exact_match(logits, full),
    }


def _scores(found: PerPrompt, full: PerPrompt, empty: PerPrompt, seed: int, draws: int = 2000) -> Scores:
    n = len(found["kl"])
    rows = torch.randint(n, (draws, n), generator=torch.Generator().manual_seed(seed))
    estimates = {name: _estimate(values.mean(), values[rows].mean(1)) for name, values in found.items()}
    inside, top, bottom = (part["logit_difference"].double() for part in (found, full, empty))
    gap = float(top.mean() - bottom.mean())
    resampled = (inside[rows] - bottom[rows]).mean(1) / (top[rows] - bottom[rows]).mean(1)
    faithful = _estimate((inside - bottom).mean() / gap, resampled) if abs(gap) > GAP else None
    return Scores(faithfulness=faithful, **estimates)


def _estimate(value: Tensor, resampled: Tensor) -> Estimate:
    low, high = resampled.double().quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(mean=float(value), low=low, high=high)
