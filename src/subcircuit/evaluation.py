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
from subcircuit.circuit import Circuit, Kept, Size, matched
from subcircuit.errors import DataError
from subcircuit.gradients import Objective, attribution, coarsen
from subcircuit.intervention import Fill, Reference, acting, masked_logits
from subcircuit.sites import Kind
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
    def answered(self) -> bool:
        """Whether the full model prefers the right answers more than the empty circuit does, beyond both intervals."""
        return self.full.logit_difference.low > self.empty.logit_difference.high

    @property
    def verdict(self) -> str:
        """`evidence` or `no evidence`.

        Evidence: there is something to explain (`answered`); the circuit is nearer to the full model than the empty and
        every random one are, and at least as near as those that attribution would choose.
        """
        kl = self.circuit.kl.mean
        above_chance = all(kl < rival.kl.mean for rival in (self.empty, *self.random))
        above_baselines = all(kl <= rival.kl.mean for rival in (self.attribution, self.integrated))
        return "evidence" if self.answered and above_chance and above_baselines else "no evidence"

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
        except (ValidationError, UnicodeDecodeError) as error:
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

    `on_step` is told the name of each row before it is run. Raises DataError when the task cannot give the prompts.
    """
    discovery = task.pairs(subject.tokenizer, circuit.origin.pairs["train"], seed=circuit.origin.seed, split="train")
    pairs = task.pairs(subject.tokenizer, n, seed=seed, split=split)
    panel = Panel(subject, circuit, discovery, pairs, batch_size, cache_bytes, seed, on_step)

    chosen = panel.run("circuit", circuit.kept)
    ranked = panel.ranked("attribution", "logit-difference", 1)
    integrated = panel.ranked("integrated gradients", "kl", 5)
    random = panel.random(controls)
    return Evidence(
        split=split,
        pairs=len(pairs),
        reference=circuit.origin.reference,
        seed=seed,
        sizes={str(kind): size for kind, size in circuit.sizes.items()},
        full=panel.scores(panel.whole),
        circuit=panel.scores(chosen),
        empty=panel.scores(panel.empty),
        attribution=ranked,
        integrated=integrated,
        random=random,
        prompts={name: [round(x, 5) for x in chosen[name].tolist()] for name in ("kl", "logit_difference")},
    )


class Panel:
    """Runs masks of one circuit's size over the same prompts, and judges them alike."""

    def __init__(
        self,
        subject: Subject,
        circuit: Circuit,
        discovery: Pairs,
        pairs: Pairs,
        batch_size: int,
        cache_bytes: int,
        seed: int,
        on_step: Callable[[str], None],
    ) -> None:
        self.subject, self.circuit, self.discovery, self.pairs = subject, circuit, discovery, pairs
        self.batch_size, self.cache_bytes, self.seed, self.on_step = batch_size, cache_bytes, seed, on_step
        self.reference = self._filled(pairs)
        self.full = masked_logits(subject, pairs.clean, {}, self.reference, batch_size=batch_size)
        self.whole = judge(self.full, self.full, pairs)
        self.empty = self.run("empty", {site: torch.zeros_like(truth) for site, truth in circuit.kept.items()})

    def run(self, name: str, kept: Kept) -> PerPrompt:
        """Every metric of one hard mask, prompt by prompt."""
        self.on_step(name)
        mask = {site: truth.float() for site, truth in kept.items()}
        logits = masked_logits(self.subject, self.pairs.clean, mask, self.reference, batch_size=self.batch_size)
        return judge(self.full, logits, self.pairs)

    def scores(self, found: PerPrompt) -> Scores:
        """Means and intervals, beside the full and the empty circuit on the same resampled prompts."""
        return _scores(found, self.whole, self.empty, self.seed)

    def ranked(self, name: str, objective: Objective, steps: int) -> Scores:
        """The circuit of this size that holds the nodes of largest absolute attribution."""
        few = self.discovery[:RANKING]
        self.on_step(f"ranking by {name}")
        scores = attribution(
            self.subject, few, self._filled(few), objective=objective, steps=steps, batch_size=self.batch_size
        )
        ranks = {site: score.abs() for site, score in coarsen(self.subject, scores, list(Kind)).items()}
        return self.scores(self.run(name, matched(self.circuit.kept, ranks)))

    def random(self, draws: int) -> list[Scores]:
        """Circuits of this size drawn at random."""
        generator = torch.Generator().manual_seed(self.seed)
        found = []
        for draw in range(draws):
            lots = {site: torch.rand(len(truth), generator=generator) for site, truth in self.circuit.kept.items()}
            found.append(self.scores(self.run(f"random {draw + 1} of {draws}", matched(self.circuit.kept, lots))))
        return found

    def _filled(self, by: Pairs) -> Reference:
        return Reference(
            self.subject,
            cast(Fill, self.circuit.origin.reference),
            by.clean,
            by.corrupt,
            acting(self.circuit.kept),
            source=self.discovery.clean,
            seed=self.seed,
            cache_bytes=self.cache_bytes,
            batch_size=self.batch_size,
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
    gaps = (top - bottom)[rows].mean(1)
    clear = gaps.abs() > GAP  # a draw of prompts on which both do the same says nothing
    resampled = (inside - bottom)[rows].mean(1)[clear] / gaps[clear]
    faithful = _estimate((inside - bottom).mean() / gap, resampled) if abs(gap) > GAP else None
    return Scores(faithfulness=faithful, **estimates)


def _estimate(value: Tensor, resampled: Tensor) -> Estimate:
    low, high = resampled.double().quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(mean=float(value), low=low, high=high)
