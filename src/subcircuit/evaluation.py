"""Evidence: how well a hard mask does on prompts nobody has looked at, with its controls beside it.

Faithfulness is `(circuit - empty) / (full - empty)` in mean logit difference, a ratio of means. Intervals are 95%
percentile bootstraps over prompts. Controls have the circuit's own size per kind: 20 random circuits, and the circuits
that one attribution pass and integrated gradients would choose.
"""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from subcircuit.circuit import Circuit, Kept, Size, matched, sizes
from subcircuit.errors import DataError
from subcircuit.gradients import Objective, attribution, coarsen
from subcircuit.intervention import Fill, Reference, acting, masked_logits
from subcircuit.scores import Estimate, PerPrompt, Scores, judge, summarise
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs, Split, Task

__all__ = ["Estimate", "Evidence", "Scores", "evidence", "judge"]

log = logging.getLogger(__name__)

SCHEMA = 1
RANKING = 64  # discovery prompts the attribution controls rank by, as in the start of node pruning


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
            found = cls.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DataError(f"{path} is missing", f"run: subcircuit score {folder}") from error
        except (ValidationError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is not an evidence file: {error}", f"run: subcircuit score {folder}") from error
        if found.schema_version != SCHEMA:
            raise DataError(f"{path} has schema version {found.schema_version}; this version reads {SCHEMA}")
        return found


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
        _require_fit(circuit, subject)
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
        return summarise(found, self.whole, self.empty, self.seed)

    def ranked(self, name: str, objective: Objective, steps: int) -> Scores:
        """The circuit of this size that holds the nodes of largest absolute attribution."""
        few = self.discovery[:RANKING]
        self.on_step(f"ranking by {name}")
        scores = attribution(
            self.subject, few, self._filled(few), objective=objective, steps=steps, batch_size=self.batch_size
        )
        ranks = {site: score.abs() for site, score in coarsen(self.subject, scores, list(Kind)).items()}
        return self.scores(self.run(name, self._matched(ranks)))

    def random(self, draws: int) -> list[Scores]:
        """Circuits of this size drawn at random."""
        generator = torch.Generator().manual_seed(self.seed)
        found = []
        for draw in range(draws):
            lots = {site: torch.rand(len(truth), generator=generator) for site, truth in self.circuit.kept.items()}
            found.append(self.scores(self.run(f"random {draw + 1} of {draws}", self._matched(lots))))
        return found

    def _matched(self, scores: Mapping[Site, Tensor]) -> Kept:
        """A control of the circuit's size; where its kinds leave no room for one, the log says so."""
        kept = matched(self.circuit.kept, scores)
        for kind, size in sizes(kept).items():
            if size != self.circuit.sizes[kind]:
                log.warning(
                    "a control keeps %d %s nodes, the circuit %d", size.kept, kind, self.circuit.sizes[kind].kept
                )
        return kept

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


def _require_fit(circuit: Circuit, subject: Subject) -> None:
    """A circuit of another shape would leave layers open without a word."""
    units = {site: len(truth) for site, truth in circuit.kept.items()}
    layers, kinds = {site.layer for site in units}, {site.kind for site in units}
    if layers != set(range(len(subject))) or any(subject.units(site.kind) != size for site, size in units.items()):
        had = ", ".join(f"{max(units[site] for site in units if site.kind is kind)} {kind}" for kind in sorted(kinds))
        has = ", ".join(f"{subject.units(kind)} {kind}" for kind in sorted(kinds))
        raise DataError(
            f"the circuit of {circuit.origin.model} has {len(layers)} layers of {had}; {subject.name} has "
            f"{len(subject)} layers of {has}",
            "score it on the model it was found in",
        )
