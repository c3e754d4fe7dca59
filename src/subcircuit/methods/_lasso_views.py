"""What a regression on a model looks at: every writer's and reader's activations, in a few columns of their own each.

A head stands for what it writes: `z W_o`, in coordinates of the head's own width that keep all lengths and angles
(`z (W_o W_o')^(1/2)`), so a head that writes nothing is a dead column. A writer's columns are the principal components
of its rows, whitened, so that no basis and no scale is preferred; a reader's are its own, scaled to a power of 1
together.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from subcircuit.batching import batched
from subcircuit.metrics import logit_difference
from subcircuit.progress import Progress
from subcircuit.sites import Kind, Site
from subcircuit.subject import Prompts, Subject
from subcircuit.tasks._base import Pairs
from subcircuit.wiring import PROJECTIONS

__all__ = ["Recorder", "Rows", "Scale", "Sink", "Views", "basis", "read", "root", "written"]

Rows = Literal["differences", "tokens", "prompts"]
Sink = Literal["answers", "logit-difference"]
Scale = Literal["column", "whole", "none"]
Moment = Float[Tensor, "unit channel channel"]
FAINT = 1e-6  # of the largest component's variance: below it a component is rounding
DEAD = 1e-12  # of the largest writer's variance: what a writer or reader has that does not vary


@dataclass(frozen=True)
class Views:
    """Rows of one batch of pairs."""

    acts: Mapping[Site, Float[Tensor, "row unit channel"]]  # at every token that counts
    pair: Int[Tensor, " row"]  # which pair a row is of
    judged: Mapping[Site, Float[Tensor, "judged unit channel"]]  # writers where the output is judged
    sink: Float[Tensor, "judged answer"]
    judged_pair: Int[Tensor, " judged"]


class Recorder:
    """Sweeps over the prompts, a forward pass of the clean and one of the corrupted ones in each.

    What the passes record is kept for the next sweep where it fits, else they are made again. Rows: "differences"
    between the two at the same token, where there is one; the "tokens" of both; or the mean over each prompt's tokens
    ("prompts").
    """

    def __init__(
        self,
        subject: Subject,
        pairs: Pairs,
        sites: list[Site],
        writers: list[Site],
        *,
        rows: Rows,
        sink: Sink,
        batch_size: int,
        cache_bytes: int,
    ) -> None:
        self.subject, self.pairs, self.sites, self.writers = subject, pairs, sites, writers
        self.rows, self.sink, self.batch_size = rows, sink, batch_size
        both = torch.cat([pairs.right.flatten(), pairs.wrong.flatten()])
        self.answers = both[both >= 0].unique()  # every token that is an answer to some prompt
        width = sum(subject.width(site.kind) for site in sites)
        self.fits = 2 * 4 * width * pairs.clean.ids.numel() <= cache_bytes
        self.kept: list[tuple[Views, int]] = []

    def sweep(self, add: Callable[[Views], None], tell: Progress, phase: str) -> None:
        """Every batch of pairs, as it was recorded before where it was kept."""
        done = 0

        def told(views: Views, pairs: int) -> None:
            nonlocal done
            add(views)
            done = min(done + pairs, len(self.pairs))
            tell(phase, done, len(self.pairs))

        def run(chosen: Tensor) -> None:
            views = self._views(chosen)
            told(views, len(chosen))
            if self.fits:
                fresh.append((views, len(chosen)))

        fresh: list[tuple[Views, int]] = []
        if self.kept:
            for views, pairs in self.kept:
                told(views, pairs)
            return
        batched(run, self.pairs.clean.lengths, self.batch_size)
        self.kept = fresh

    def _views(self, chosen: Tensor) -> Views:
        batch = self.pairs[chosen]
        (clean, top), (corrupt, other) = (self._side(prompts, batch) for prompts in (batch.clean, batch.corrupt))
        if self.rows == "differences":
            between = {site: clean[site] - corrupt[site] for site in self.sites}
            return _rows(between, top - other, batch.clean, chosen, self.writers, self.rows)
        sides = ((clean, top, batch.clean), (corrupt, other, batch.corrupt))
        return _joined([_rows(*side, chosen, self.writers, self.rows) for side in sides])

    def _side(self, prompts: Prompts, batch: Pairs) -> tuple[dict[Site, Tensor], Tensor]:
        logits, acts = self.subject.record(prompts, self.sites)
        if self.sink == "logit-difference":
            return acts, logit_difference(logits, batch.right, batch.wrong)[:, None]
        chosen = logits[:, self.answers.to(logits.device)]
        return acts, chosen - chosen.mean(1, keepdim=True)  # what all answers share decides nothing


def _rows(
    acts: Mapping[Site, Tensor], top: Tensor, by: Prompts, chosen: Tensor, writers: list[Site], rows: Rows
) -> Views:
    here = {site: act.float() for site, act in acts.items()}
    real = by.mask.to(next(iter(here.values())).device)
    if rows == "prompts":
        weight = (real / real.sum(1, keepdim=True))[:, :, None, None]
        flat = {site: (act * weight).sum(1) for site, act in here.items()}
        return Views(flat, chosen, {site: flat[site] for site in writers}, top, chosen)
    at = (torch.arange(len(top), device=real.device), by.at.to(real.device))
    judged = {site: here[site][at] for site in writers}
    if rows == "differences":
        real = real & torch.stack([act.flatten(2).any(2) for act in here.values()]).any(0)
    pair = chosen[:, None].expand(*real.shape)[real.cpu()]
    return Views({site: act[real] for site, act in here.items()}, pair, judged, top, chosen)


def _joined(parts: list[Views]) -> Views:
    return Views(
        {site: torch.cat([part.acts[site] for part in parts]) for site in parts[0].acts},
        torch.cat([part.pair for part in parts]),
        {site: torch.cat([part.judged[site] for part in parts]) for site in parts[0].judged},
        torch.cat([part.sink for part in parts]),
        torch.cat([part.judged_pair for part in parts]),
    )


def root(subject: Subject, site: Site) -> Moment | None:
    """`(W_o W_o')^(1/2)` of a HEAD site's heads; of other sites, which write as they are, None."""
    if site.kind is not Kind.HEAD:
        return None
    weight = subject.layout.weight(site).detach().double().cpu()
    values, vectors = torch.linalg.eigh(weight @ weight.mT)
    found: Tensor = vectors @ torch.diag_embed(values.clamp(min=0).sqrt()) @ vectors.mT
    return found


def basis(
    moment: Moment, channels: int, *, scale: Scale, largest: float, through: Moment | None = None
) -> Float[Tensor, "unit channel column"]:
    """The map from a unit's channels to its first `channels` principal components; for 0, to the channels themselves.

    Args:
        moment: mean outer products of the unit's rows.
        scale: a variance of 1 for each "column", for the "whole" unit, or "none" given.
        largest: the most variance any unit has, by which a dead one is told.
        through: what rows are multiplied by first.
    """
    seen = moment if through is None else through @ moment @ through
    if channels:
        values, vectors = torch.linalg.eigh(seen)
        values, vectors = values.flip(-1)[:, :channels].clamp(min=0), vectors.flip(-1)[:, :, :channels]
    else:
        values = seen.diagonal(dim1=1, dim2=2)
        vectors = torch.eye(values.shape[-1], dtype=seen.dtype).expand_as(seen)
    alive = (values > FAINT * values.amax(1, keepdim=True)) & (values.sum(1, keepdim=True) > DEAD * largest)
    power = values if scale == "column" else values.sum(1, keepdim=True).expand_as(values)
    factor = torch.ones_like(power) if scale == "none" else power.clamp(min=1e-300).rsqrt()
    found: Tensor = vectors * factor.where(alive, torch.zeros_like(power))[:, None]
    return found if through is None else through @ found


def written(subject: Subject, site: Site, moment: Moment) -> Bool[Tensor, "unit hidden"]:
    """The coordinates of the residual stream in which each unit's rows vary."""
    if site.kind is Kind.HEAD:
        weight = subject.layout.weight(site).detach().double().cpu()
        power = torch.einsum("uch,ucd,udh->uh", weight, moment, weight)
    else:
        power = moment.diagonal(dim1=1, dim2=2)
    varied: Tensor = power > DEAD * power.max()
    return varied


def read(subject: Subject, site: Site) -> Bool[Tensor, "unit hidden"]:
    """The coordinates of the residual stream that each unit's projections take in; of a head, whose are three, all."""
    if site.kind in PROJECTIONS:
        return (subject.layout.weight(site).detach() != 0).any(1).cpu()
    hidden = subject.units(Kind.MLP_OUT)
    inward = _inward(subject, site.layer, hidden) if site.kind is Kind.MLP else []
    if not inward:
        return torch.ones(subject.units(site.kind), hidden, dtype=torch.bool)
    return torch.stack(inward).any(0)[None]


def _inward(subject: Subject, layer: int, hidden: int) -> list[Bool[Tensor, " hidden"]]:
    """The same of each projection that stands beside the MLP's last one."""
    down = subject.family.taps[Kind.NEURON].module
    found = []
    for name, module in subject.module(layer, down.rpartition(".")[0]).named_children():
        weight = getattr(module, "weight", None)
        if name == down.rpartition(".")[2] or not isinstance(weight, Tensor) or weight.dim() != 2:
            continue
        inputs = weight if isinstance(module, nn.Linear) else weight.T  # GPT-2's Conv1D is (in, out)
        if inputs.shape[1] == hidden:
            found.append((inputs.detach() != 0).any(0).cpu())
    return found
