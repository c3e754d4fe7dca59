"""What the joint replacement of nodes does to a metric: their values come from another run, all else is recomputed.

A gate of 1 is the run's own value, 0 the other run's. "noise" runs the clean prompt and puts the reference's values
into it; "denoise" runs the corrupted prompt (or the clean one with noisy embeddings) and puts clean values into it.
The change of a metric is positive when the replacement leads from the first run towards the second.

Where answers are several tokens, the prompt goes on with each of them, and metrics judge the answers' log probabilities
(`continuations`); "kl" is then that of the choice between them.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit import metrics
from subcircuit.continuations import Continued
from subcircuit.errors import DataError, NumericalError, UnknownName, UsageError
from subcircuit.intervention import NOISY, Fill, Mask, Reference, acting, masking
from subcircuit.noise import Noise
from subcircuit.parallel.rows import gathered
from subcircuit.positions import placed, places
from subcircuit.sites import Site
from subcircuit.subject import Prompts, Subject
from subcircuit.tasks._base import Pairs

__all__ = ["METRICS", "Direction", "Metric", "Replacement", "check_direction", "find_metric"]

Direction = Literal["noise", "denoise"]
PerPrompt = Float[Tensor, " prompt"]
Judge = Callable[[Float[Tensor, "prompt vocab"], Pairs, Float[Tensor, "prompt vocab"]], PerPrompt]


@dataclass(frozen=True)
class Metric:
    """A number per prompt from its logits, its answers and the clean run's logits; higher = nearer to the clean run."""

    judge: Judge
    ratio: bool = False  # the number is the logarithm of a ratio: its change is a log ratio, in nats
    smooth: Judge | None = None  # what is climbed in place of a number that has no gradient
    continued: Judge | None = None  # what judges log probabilities of answers of several tokens; `judge` where left out


METRICS: Mapping[str, Metric] = {
    "odds-ratio": Metric(lambda logits, pairs, _: metrics.logit_difference(logits, pairs.right, pairs.wrong), True),
    "logit-difference": Metric(lambda logits, pairs, _: metrics.logit_difference(logits, pairs.right, pairs.wrong)),
    "probability": Metric(
        lambda logits, pairs, _: metrics.probability(logits, pairs.right).log(),
        True,
        continued=lambda log_p, pairs, _: metrics.together(log_p, pairs.right),
    ),
    "accuracy": Metric(
        lambda logits, pairs, _: metrics.accuracy(logits, pairs.right, pairs.wrong),
        smooth=lambda logits, pairs, _: metrics.logit_difference(logits, pairs.right, pairs.wrong).sigmoid(),
    ),
    "kl": Metric(lambda logits, _, clean: -metrics.kl(clean, logits)),
}


def find_metric(name: str) -> Metric:
    """A metric of the table, or a function `f(logits, pairs)` of one's own, named as "module:function".

    Raises UnknownName for a name that is neither, UsageError for a function that is not there.
    """
    module, colon, function = name.partition(":")
    if not colon:
        if name not in METRICS:
            raise UnknownName("metric", name, [*METRICS, "module:function"])
        return METRICS[name]
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"the metric {name} cannot be imported: {error}", "write module:function") from error
    return Metric(lambda logits, pairs, _: found(logits, pairs))


def check_direction(direction: str, fill: str) -> None:
    """Raises UnknownName for a direction that is none, UsageError where it does not go with the reference."""
    if direction not in get_args(Direction):
        raise UnknownName("direction", direction, get_args(Direction))
    if direction == "denoise" and fill not in ("corrupt", *NOISY):
        raise UsageError(
            f"direction denoise with reference {fill}",
            f"clean values are put into a corrupted run: give reference corrupt, {' or '.join(NOISY)}",
        )


class Replacement:
    """Replaces nodes at some sites, on one set of pairs, and judges what comes out.

    `base` is the metric with nothing replaced, `whole` its change with all nodes replaced, prompt by prompt.
    Raises NumericalError when either is not finite, DataError for a counterfactual of another length, naming the row.
    """

    def __init__(
        self,
        subject: Subject,
        pairs: Pairs,
        sites: Sequence[Site],
        metric: str,
        *,
        direction: Direction = "noise",
        fill: Fill = "corrupt",
        source: Prompts | None = None,
        seed: int = 0,
        cache_bytes: int = 0,
        batch_size: int = 32,
        parts: Sequence[str] = (),
    ) -> None:
        check_direction(direction, fill)
        _require_same_lengths(pairs)
        self.subject, self.batch_size, self.parts = subject, batch_size, tuple(parts)
        self.name, self.metric = metric, find_metric(metric)
        denoise = direction == "denoise"
        self.sign = 1.0 if denoise else -1.0
        self.prompts = pairs.corrupt if denoise and fill not in NOISY else pairs.clean
        self.continued = Continued(self.prompts, pairs) if pairs.continued else None
        self.pairs = self.continued.pairs if self.continued else pairs
        self.where: Int[Tensor, "pair pos"] | None = places(pairs, parts) if parts else None
        self.noise: Noise | None = None
        if denoise and fill in NOISY:
            self.noise = Noise(subject, pairs.clean, pairs.corrupt, everywhere=fill == "noise-all", seed=seed)
        self.reference = Reference(
            subject,
            "corrupt" if denoise else fill,
            self.prompts,
            pairs.clean if denoise else pairs.corrupt,
            acting(sites),
            source=source,
            seed=seed,
            cache_bytes=cache_bytes,
            batch_size=batch_size,
        )
        self.base_logits = self.logits({})
        self.clean = self._clean(denoise)
        self.base = self._judged(self.base_logits, torch.arange(len(pairs)))
        self.whole = self.change(self.logits(self.closed(sites)))
        for what, found in (("nothing", self.base), ("everything", self.whole)):
            self._require_finite(found, what)

    def __len__(self) -> int:
        return len(self.pairs)

    def closed(self, sites: Sequence[Site]) -> Mask:
        """Gates with which everything is replaced."""
        parts = [len(self.parts)] if self.parts else []
        return {site: torch.zeros(*parts, self.subject.units(site.kind)) for site in sites}

    def run(self, rows: Tensor, gates: Mask) -> Float[Tensor, "row vocab"]:
        """The judged logits of these rows, which may repeat; gradients flow to the gates.

        With `parts` a gate is `(*row, part, unit)`. Of answers of several tokens: their log probabilities.
        """
        return self.run_at(rows, {site: self.at(rows, gate) for site, gate in gates.items()})

    def at(self, rows: Tensor, gate: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """A gate by part as one by position; where there are no parts, the gate itself."""
        return gate if self.where is None else placed(gate, self.where[rows, : self.prompts[rows].ids.shape[1]])

    def run_at(self, rows: Tensor, gates: Mask) -> Float[Tensor, "row vocab"]:
        """The same with gates for all positions, or `(row, pos, unit)`."""
        once, back = rows.unique(return_inverse=True)  # a prompt's reference is needed once, not once per mask
        values = self.reference(once) if gates else {}
        if not torch.equal(once, rows):
            values = {site: value[back] if len(value) > 1 else value for site, value in values.items()}
        continued, passed = self.continued, rows
        if continued:
            gates, values = continued.gates(gates, rows), continued.values(values)
            passed = rows.repeat_interleave(continued.answers.shape[1])
        with ExitStack() as stack:
            if self.noise:
                stack.enter_context(self.noise.added(passed))
            stack.enter_context(masking(self.subject, gates, values))
            if continued:
                return continued.log_probabilities(self.subject, rows)
            return self.subject.logits(self.prompts[rows])

    @torch.no_grad()
    def logits(self, gates: Mask) -> Float[Tensor, "prompt vocab"]:
        """The judged logits of all prompts under gates that are the same for all."""
        return gathered(lambda rows: self.run(rows, gates), self.prompts.lengths, self.batch_size)

    def change(
        self, logits: Float[Tensor, "row vocab"], rows: Tensor | None = None, *, smooth: bool = False
    ) -> Float[Tensor, " row"]:
        """How far the metric has moved, of all prompts or of these rows; of a ratio, the logarithm of its ratio.

        `smooth`: with a gradient, also where the metric itself has none.
        """
        rows = torch.arange(len(self)) if rows is None else rows
        judge = self.metric.smooth if smooth else None
        if judge is None:
            return self.sign * (self._judged(logits, rows) - self.base[rows])
        before = self._judged(self.base_logits[rows], rows, judge)
        return self.sign * (self._judged(logits, rows, judge) - before)

    def relative(self, change: Float[Tensor, "*row"]) -> Float[Tensor, "*row"]:
        """The change as the paper has it: of a ratio, its relative change; of any other number, the difference."""
        return change.expm1() if self.metric.ratio else change

    @property
    def wrong_way(self) -> int:
        """How many pairs the full replacement moves away from the second run."""
        return int((self.whole < 0).sum())

    def _clean(self, denoise: bool) -> Float[Tensor, "prompt vocab"]:
        if not denoise or self.continued:
            return self.base_logits
        with torch.no_grad():
            clean = self.pairs.clean
            return gathered(lambda rows: self.subject.logits(clean[rows]), clean.lengths, self.batch_size)

    def _judged(self, logits: Tensor, rows: Tensor, judge: Judge | None = None) -> PerPrompt:
        usual = self.metric.continued or self.metric.judge if self.continued else self.metric.judge
        found = (judge or usual)(logits, self.pairs[rows], self.clean[rows].to(logits.device))
        if found.shape != rows.shape:
            raise UsageError(
                f"the metric {self.name} gave {tuple(found.shape)} for {len(rows)} prompts", "give one number a prompt"
            )
        return found.cpu()

    def _require_finite(self, found: PerPrompt, what: str) -> None:
        bad = (~found.isfinite()).nonzero()[:, 0].tolist()
        if bad:
            raise NumericalError(
                f"the metric {self.name} of row {bad[0]} is not finite with {what} replaced",
                "use float32 weights, check the row's answers, or choose another metric",
            )


def _require_same_lengths(pairs: Pairs) -> None:
    clean, corrupt = pairs.clean.lengths, pairs.corrupt.lengths
    bad = (clean != corrupt).nonzero()[:, 0].tolist()
    if bad:
        row = bad[0]
        raise DataError(
            f"row {row} has {int(clean[row])} tokens and its counterfactual {int(corrupt[row])}",
            "give a counterfactual of as many tokens, so that positions line up",
        )
