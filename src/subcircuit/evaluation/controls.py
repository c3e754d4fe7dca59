"""Evidence: how well a hard mask does on prompts nobody has looked at, with its controls beside it.

Faithfulness is `(circuit - empty) / (full - empty)` in mean logit difference, a ratio of means. Intervals are 95%
percentile bootstraps over prompts. Controls have the circuit's own size per kind: 20 random circuits, and the circuits
that one attribution pass and integrated gradients would choose.
"""

from collections.abc import Callable
from pathlib import Path

from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from subcircuit.circuit import Circuit, Size
from subcircuit.evaluation.panel import Panel
from subcircuit.evaluation.setting import Setting
from subcircuit.evaluation.sharded import Scoring, random_circuits
from subcircuit.evaluation.traced_panel import shortcoming
from subcircuit.files import load_record, save_record
from subcircuit.scores import Estimate, Scores
from subcircuit.shards.launcher import Launcher
from subcircuit.subject import Subject
from subcircuit.tasks._base import Split, Task

__all__ = ["Evidence", "evidence", "of_panel"]

SCHEMA = 1
ROUNDING = 1e-6  # nats: what float32 leaves between two circuits that do the same


class Evidence(BaseModel):
    """`evidence.json`: a circuit's scores on one split, beside the scores that would prove nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA
    setting: Setting | None = Field(
        default=None, description="what the numbers depend on; null in files of early versions"
    )
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
    prompts: dict[str, list[float]] = Field(
        description="prompt by prompt: the circuit's kl and logit_difference, and the full and the empty circuit's "
        "logit difference; of causal tracing its effect. Early versions wrote the first two"
    )

    @property
    def answered(self) -> bool:
        """Whether the full model prefers the right answers more than the empty circuit does, beyond both intervals."""
        return self.full.logit_difference.low > self.empty.logit_difference.high

    @property
    def verdict(self) -> str:
        """`evidence` or `no evidence`.

        Evidence: there is something to explain (`answered`); the circuit is nearer to the full model than the empty and
        every random one are, and at least as near as those that attribution would choose. Of a causal tracing: see
        `shortcoming`.
        """
        if self.circuit.effect is not None:
            return "no evidence" if self._shortcoming() else "evidence"
        kl = self.circuit.kl.mean
        above_chance = all(kl < rival.kl.mean for rival in (self.empty, *self.random))
        above_baselines = all(kl <= rival.kl.mean + ROUNDING for rival in (self.attribution, self.integrated))
        return "evidence" if self.answered and above_chance and above_baselines else "no evidence"

    @property
    def reason(self) -> str:
        """Why the verdict is what it is, in a sentence."""
        if self.circuit.effect is not None:
            return self._shortcoming() or self._moved(self.circuit.effect)
        kl = self.circuit.kl.mean
        if not self.answered:
            full, empty = self.full.logit_difference.mean, self.empty.logit_difference.mean
            return (
                f"the full model's logit difference of {full:.3g} is not clearly above the empty circuit's {empty:.3g}"
            )
        baselines = {
            "the attribution circuit": self.attribution.kl.mean,
            "the integrated-gradients circuit": self.integrated.kl.mean,
        }
        better = [f"{name} (KL {theirs:.3g})" for name, theirs in baselines.items() if theirs < kl - ROUNDING]
        if self.empty.kl.mean <= kl:
            better.append(f"the empty circuit (KL {self.empty.kl.mean:.3g})")
        lucky = sum(scores.kl.mean <= kl for scores in self.random)
        if lucky:
            better.append(f"{lucky} of {len(self.random)} random circuits")
        if better:
            return f"the circuit's KL of {kl:.3g} is not below that of {', '.join(better)}"
        luckiest = min([scores.kl.mean for scores in self.random], default=self.empty.kl.mean)
        return (
            f"the circuit's KL of {kl:.3g} is below that of every random circuit of its size "
            f"(the best: {luckiest:.3g}) and no higher than attribution's ({min(baselines.values()):.3g}), "
            f"on {self.pairs} prompt pairs of the {self.split} split"
        )

    def _shortcoming(self) -> str:
        """What keeps the effect of a causal tracing from being evidence."""
        own, attribution, integrated, *lots = (
            effect
            for scores in (self.circuit, self.attribution, self.integrated, *self.random)
            if (effect := scores.effect) is not None
        )
        return shortcoming(own, {"one gradient's set": attribution, "integrated gradients' set": integrated}, lots)

    def _moved(self, effect: Estimate) -> str:
        everything = self.empty.effect
        whole = f", replacing everything {everything.mean:.3g}" if everything is not None else ""
        return (
            f"replacing the circuit moves the metric by {effect.mean:.3g}{whole}; no random set of its size moves it "
            f"as far, and none that gradients choose further, on {self.pairs} prompt pairs of the {self.split} split"
        )

    def save(self, folder: str | Path) -> None:
        """Write `evidence.json`, whole or not at all. Raises ResourceError."""
        save_record(self, Path(folder) / "evidence.json")

    @classmethod
    def load(cls, folder: str | Path) -> "Evidence":
        """Read it back. Raises DataError when it is missing or broken."""
        cure = f"run: subcircuit score {folder}"
        return load_record(cls, Path(folder) / "evidence.json", "an evidence file", missing=cure, broken=cure)


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
    launcher: Launcher | None = None,
    on_step: Callable[[str], None] = lambda name: None,
) -> Evidence:
    """Score a circuit's hard mask on a split that played no part in finding it.

    Args:
        launcher: runs the random circuits, and keeps what each of them does; without it nothing is kept.
        on_step: told the name of each row before it is run.

    Raises DataError when the task cannot give the prompts, ResourceError when a job of the launcher fails.
    """
    scoring = Scoring(circuit, task, n, split, seed, batch_size, cache_bytes, launcher)
    return of_panel(scoring.panel(subject, on_step), scoring, controls)


def of_panel(panel: Panel, scoring: Scoring, controls: int) -> Evidence:
    """The evidence on a panel's prompts."""
    circuit = panel.circuit
    return Evidence(
        setting=Setting.of(circuit, panel.ablated),
        split=scoring.split,
        pairs=len(panel.pairs),
        reference=circuit.origin.reference,
        seed=panel.seed,
        sizes={str(kind): size for kind, size in circuit.sizes.items()},
        circuit=panel.scores(panel.chosen),
        attribution=panel.ranked("attribution", "logit-difference", 1),
        integrated=panel.ranked("integrated gradients", "kl", 5),
        random=random_circuits(panel, controls, scoring),
        full=panel.scores(panel.whole),
        empty=panel.scores(panel.empty),
        prompts={name: [round(x, 5) for x in values.tolist()] for name, values in _by_prompt(panel).items()},
    )


def _by_prompt(panel: Panel) -> dict[str, Float[Tensor, " prompt"]]:
    found = {name: panel.chosen[name] for name in ("kl", "logit_difference", "effect") if name in panel.chosen}
    whole, empty = (each["logit_difference"] for each in (panel.whole, panel.empty))
    return found | {"full_logit_difference": whole, "empty_logit_difference": empty}
