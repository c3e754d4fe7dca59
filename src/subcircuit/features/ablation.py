"""Features switched off in the model itself, the error of the dictionary kept.

At the site that a dictionary writes to, what the chosen features stand for is taken off, and nothing else changes:

    x  ->  x - f_off W_dec        which is  decode(f without off) + (x - decode(f))

so that a model in which nothing is switched off is the model. A circuit of features is judged as in Marks et al.
(2025), with m(C) the metric when all features but C are off:

    faithfulness = (m(C) - m(none)) / (m(all) - m(none))      1 = the circuit suffices
    completeness = (m(all but C) - m(none)) / (m(all) - m(none))      0 = nothing outside it does the work besides

Departs from it: features are set to 0, and the error is no node.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.batching import batched
from subcircuit.errors import DataError, NumericalError, UnknownName
from subcircuit.features.placing import Chosen, Placed
from subcircuit.layout import Edit
from subcircuit.metrics import logit_difference
from subcircuit.sites import Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs

__all__ = ["Faithfulness", "Judge", "ablating", "judge", "others"]

Judge = Callable[[Float[Tensor, "prompt vocab"], Pairs], Float[Tensor, " prompt"]]


@dataclass(frozen=True)
class Faithfulness:
    """What a circuit of features does by itself, and what is done without it; means of a metric over prompts."""

    whole: float  # the model
    circuit: float  # only these features on
    without: float  # all features but these on
    empty: float  # no feature on; the errors of the dictionaries are there all the same

    @property
    def faithfulness(self) -> float:
        """1 = as the model, 0 = as no feature. Raises NumericalError where all features together do nothing."""
        return (self.circuit - self.empty) / self._span

    @property
    def completeness(self) -> float:
        """0 = nothing is left without the circuit, 1 = it is not missed. Raises NumericalError, as above."""
        return (self.without - self.empty) / self._span

    @property
    def _span(self) -> float:
        if abs(self.whole - self.empty) < 1e-9:
            raise NumericalError(
                f"the metric is {self.whole:.3g} with all features and with none: there is nothing to be faithful to",
                "take dictionaries that explain more, or another metric",
            )
        return self.whole - self.empty


@contextmanager
def ablating(subject: Subject, dictionaries: Sequence[Placed], off: Chosen, *, skip: int = 1) -> Iterator[None]:
    """Within the block these features are 0 at all positions but the first `skip`, on which no dictionary was trained.

    Raises UnknownName for a site that no dictionary reads at, DataError for a feature that is not in its dictionary.
    """
    by_site = {each.reads: each for each in dictionaries}
    with ExitStack() as stack:
        for site, features in off.items():
            if site not in by_site:
                raise UnknownName("dictionary at", str(site), map(str, by_site))
            chosen = torch.as_tensor(features, dtype=torch.long)
            if len(chosen):
                stack.enter_context(subject.editing(_edits(by_site[site], chosen, skip)))
        yield


@torch.no_grad()
def judge(
    subject: Subject,
    pairs: Pairs,
    dictionaries: Sequence[Placed],
    kept: Chosen,
    metric: Judge = lambda logits, pairs: logit_difference(logits, pairs.right, pairs.wrong),
    *,
    skip: int = 1,
    batch: int = 32,
) -> Faithfulness:
    """Run the clean prompts with all, with only these, without these and with no features. Errors as in `ablating`."""

    def mean(off: Chosen) -> float:
        found = torch.zeros(len(pairs))

        def run(rows: Tensor) -> None:
            found[rows] = metric(subject.logits(pairs.clean[rows]), pairs[rows]).float().cpu()

        with ablating(subject, dictionaries, off, skip=skip):
            batched(run, pairs.clean.lengths, batch)
        return float(found.mean())

    every = {each.reads: range(len(each.dictionary)) for each in dictionaries}
    return Faithfulness(whole=mean({}), circuit=mean(others(dictionaries, kept)), without=mean(kept), empty=mean(every))


def others(dictionaries: Sequence[Placed], kept: Chosen) -> Chosen:
    """All features but these."""
    found = {}
    for each in dictionaries:
        rest = torch.ones(len(each.dictionary), dtype=torch.bool)
        rest[_checked(each, torch.as_tensor(kept.get(each.reads, []), dtype=torch.long))] = False
        found[each.reads] = rest.nonzero()[:, 0]
    return found


def _edits(placed: Placed, chosen: Tensor, skip: int) -> dict[Site, Edit]:
    """What takes the chosen features off; a transcoder's are read at one site and taken off at another."""
    dictionary, decoder = placed.dictionary, placed.dictionary.decoder[_checked(placed, chosen)]
    read: list[Tensor] = []

    def taken_off(x: Tensor) -> Tensor:
        features = dictionary.encode(x.flatten(2).cpu())[..., chosen]
        features[:, :skip] = 0
        return (features @ decoder).to(x)

    def keep(act: Tensor) -> Tensor:
        read[:] = [taken_off(act)]
        return act

    if placed.reads == placed.writes:
        return {placed.reads: lambda act: act - taken_off(act).view(act.shape)}
    return {placed.reads: keep, placed.writes: lambda act: act - read[0].view(act.shape)}


def _checked(placed: Placed, chosen: Tensor) -> Tensor:
    there = len(placed.dictionary)
    if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < there:
        raise DataError(f"there is no feature {int(chosen.max())} at {placed.reads}", f"its dictionary has {there}")
    return chosen
