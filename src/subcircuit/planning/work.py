"""What a run keeps in memory and which passes it makes: the blocks that the methods' needs are put together of."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from subcircuit.intervention import acting
from subcircuit.planning import formulas
from subcircuit.planning.shape import Shape
from subcircuit.sites import Kind, Site

__all__ = ["Load", "Needs", "Passes", "Settings", "Work"]

Parts = dict[str, float]


class Settings(Protocol):
    """The fields of a method that its memory depends on."""

    @property
    def pairs(self) -> int: ...
    @property
    def validation(self) -> int: ...
    @property
    def reference(self) -> str: ...
    @property
    def batch(self) -> int: ...
    @property
    def cache_gb(self) -> float: ...


@dataclass(frozen=True)
class Load:
    """The prompts of a run."""

    pairs: int
    validation: int
    longest: int  # tokens
    mean: float  # tokens of a prompt


@dataclass(frozen=True)
class Passes:
    """Prompts that go through the model, at least and at most."""

    forward: tuple[float, float] = (0.0, 0.0)
    gradient: tuple[float, float] = (0.0, 0.0)  # forward and backward
    rewired: tuple[float, float] = (0.0, 0.0)  # forward, with edges closed
    edges: tuple[float, float] = (0.0, 0.0)  # forward and backward, edges scored or gated

    def __add__(self, other: "Passes") -> "Passes":
        def both(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
            return a[0] + b[0], a[1] + b[1]

        return Passes(
            both(self.forward, other.forward),
            both(self.gradient, other.gradient),
            both(self.rewired, other.rewired),
            both(self.edges, other.edges),
        )


@dataclass(frozen=True)
class Needs:
    """What a run takes beside the process and the weights."""

    moments: Mapping[str, Parts]  # bytes by what they hold, at each moment that may be the dearest
    passes: Passes
    disk: float = 0.0  # bytes in the run folder
    about: Sequence[str] = field(default_factory=tuple)  # what a reader should know of these numbers

    def peak(self) -> tuple[str, Parts]:
        """The dearest moment."""
        return max(self.moments.items(), key=lambda moment: sum(moment[1].values()))


@dataclass(frozen=True)
class Work:
    """A model, settings and prompts, with what usual pieces of a run take."""

    shape: Shape
    own: Settings
    load: Load
    kinds: Sequence[Kind]  # that have gates
    checkpointing: bool = False  # layers run again for their gradients

    @property
    def rows(self) -> int:
        """Prompts in a pass."""
        return min(self.own.batch, max(self.load.pairs, self.load.validation))

    @property
    def tokens(self) -> int:
        """Tokens in a pass, padding included."""
        return self.rows * self.load.longest

    @property
    def gated(self) -> list[Kind]:
        """Where gates act."""
        return [site.kind for site in acting([Site(0, kind) for kind in self.kinds])]

    def cache(self, prompts: int, kinds: Sequence[Kind], share: float = 0.5) -> float:
        """Bytes of the references of so many prompts, as far as they are kept; 0 where they are made again."""
        return whole if (whole := self._references(prompts, kinds)) <= share * self.own.cache_gb * 2**30 else 0.0

    def again(self, prompts: int, kinds: Sequence[Kind], share: float = 0.5) -> bool:
        """Whether references are made again in every pass."""
        return self._references(prompts, kinds) > share * self.own.cache_gb * 2**30

    def recording(self, kinds: Sequence[Kind], rows: int | None = None) -> Parts:
        """A pass that records sites of these kinds."""
        tokens = self.tokens if rows is None else rows * self.load.longest
        return {"recorded": tokens * formulas.written(self.shape, kinds), "activations": tokens * self._passing}

    def running(self) -> Parts:
        """A pass that keeps nothing, judged."""
        logits = formulas.logits_at_work(self.shape, self.rows)
        return {"activations": self.tokens * self._passing, "logits": logits}

    def climbing(self, *, again: Sequence[Kind] = (), gated: Sequence[Kind] | None = None) -> Parts:
        """A pass with its gradient by gates; `again`: kinds of references that are recorded beside it."""
        gated = self.gated if gated is None else gated
        if self.checkpointing:
            return self._climbing_again(gated)
        kept = formulas.kept_for_backward(self.shape, self.load.longest, gated)
        return {
            "recorded": self.tokens * formulas.written(self.shape, again),
            "activations": self.tokens * (kept + self._passing),
            "logits": formulas.logits_at_work(self.shape, self.rows),
        }

    def _climbing_again(self, gated: Sequence[Kind]) -> Parts:
        """The same where layers run twice: the references of the pass stay for the second time."""
        kept = formulas.kept_for_recomputation(self.shape, self.load.longest, gated)
        stay = formulas.GROWN * formulas.written(self.shape, gated) if self._references(1, gated) else 0.0
        return {
            "recorded": 0.0,
            "activations": self.tokens * (kept + stay + self._passing),
            "logits": formulas.logits_at_work(self.shape, self.rows),
        }

    def table(self, *prompts: int) -> float:
        """Bytes of the full model's logits on so many prompts, and of putting the last of them together."""
        half = formulas.read_at_once(self.shape, 1) / 2
        return half * (sum(prompts) + max(prompts, default=0))

    def bisections(self, nodes: float) -> int:
        """Tries of a bisection down to one of so many."""
        return math.ceil(math.log2(max(2.0, nodes)))

    @property
    def _passing(self) -> float:
        return formulas.passing(self.shape)

    def _references(self, prompts: int, kinds: Sequence[Kind]) -> float:
        if self.own.reference in ("zero", "mean"):
            return 0.0
        return prompts * self.load.longest * formulas.written(self.shape, kinds)
