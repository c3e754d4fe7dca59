"""Running a subject with edges switched off: each reader takes in its own version of the residual stream.

What a writer adds in this run is replaced, in the eyes of one reader, by what it adds in a reference:
`stream - sum(closed * (own - reference))` over the writers before it; where most are closed, the same sum from its
other end, `reference's stream + sum(open * (own - reference))`, for a difference of large sums leaves their rounding,
which a norm amplifies. The model itself runs as it is; only the inputs of its branches are corrected, so the stream
that is handed on stays whole. Where a branch ends in a norm of its own, the reader sees that norm of the heads that are
left to it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from subcircuit.intervention import Reference
from subcircuit.layout import Edit
from subcircuit.outbox import Outbox
from subcircuit.parallel.rows import gathered
from subcircuit.prompts import Prompts
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.wiring import PROJECTIONS, Wiring

__all__ = ["contributions", "rewired", "rewired_logits", "writer_sites"]

Table = Float[Tensor, "reader writer"]


def writer_sites(subject: Subject) -> list[Site]:
    """Where writers are recorded: their reference must hold these."""
    return [Site(0, Kind.RESID), *subject.sites(Kind.HEAD, Kind.MLP)]


@contextmanager
def rewired(subject: Subject, wiring: Wiring, open: Table, reference: Mapping[Site, Tensor]) -> Iterator[None]:
    """Within the block every edge carries `open` of its writer's own value, hard or soft; gradients flow to it.

    Args:
        open: 1 = the edge stands, 0 = its reader sees the reference's value.
        reference: values at `writer_sites`, broadcastable to `(batch, pos, unit, channel)`.
    """
    run = _Run(subject, wiring, (1 - open.float()) * wiring.allowed, reference)
    with subject.editing(run.edits()):
        yield


@torch.no_grad()
def rewired_logits(
    subject: Subject, wiring: Wiring, prompts: Prompts, open: Table, reference: Reference, *, batch_size: int = 32
) -> Float[Tensor, "prompt vocab"]:
    """The judged logits of all prompts with some edges open. `reference` is of `writer_sites`."""

    def run(rows: Tensor) -> Tensor:
        with rewired(subject, wiring, open, reference(rows)):
            return subject.logits(prompts[rows])

    return gathered(run, prompts.lengths, batch_size)


def contributions(
    subject: Subject, site: Site, own: Tensor, other: Tensor, out: Float[Tensor, "writer token hidden"] | None = None
) -> Float[Tensor, "writer batch pos hidden"]:
    """What each writer of a HEAD, MLP or RESID site adds to the stream more than it does in the reference.

    Where the attention branch ends in a norm, heads are counted before it. Written to `out` where that is given.
    """
    delta = own - other.to(own.device, own.dtype)
    by_unit = rearrange(delta, "batch pos unit channel -> unit (batch pos) channel")
    if site.kind is Kind.HEAD:
        written = torch.bmm(by_unit, subject.layout.weight(site), out=out)
    else:
        written = by_unit if out is None else out.copy_(by_unit)
    return written.view(len(written), *own.shape[:2], -1)


class _Run:
    """One pass: writers leave what they add more than their references, readers take from it what is closed to them."""

    def __init__(self, subject: Subject, wiring: Wiring, closed: Table, reference: Mapping[Site, Tensor]) -> None:
        self.subject, self.layout, self.wiring = subject, subject.layout, wiring
        self.closed, self.reference = closed, reference
        self.streams: dict[int, Tensor] = {}
        self.outbox = Outbox(len(wiring.writers))
        self.branches: list[_Branch] = []
        self.entered: tuple[int, Tensor | None] = (-1, None)  # a layer, and what its heads' readers take in
        self.references: dict[int, Tensor] = {}  # the reference's stream, after so many writers

    def edits(self) -> dict[Site, Edit]:
        """One for every writer and reader, in the order of computation."""
        start, end = Site(0, Kind.RESID), Site(len(self.subject), Kind.RESID)
        found: dict[Site, Edit] = {start: self._writer(start)}
        for layer in range(len(self.subject)):
            mlp = Site(layer, Kind.MLP)
            found[Site(layer, Kind.ATTN_IN)] = self._entry(layer)
            found |= {Site(layer, kind): self._projection(Site(layer, kind)) for kind in PROJECTIONS}
            found[Site(layer, Kind.HEAD)] = self._writer(Site(layer, Kind.HEAD))
            found[Site(layer, Kind.MLP_IN)] = self._reader(self.wiring.rows(mlp), self.wiring.before(mlp))
            found[mlp] = self._writer(mlp)
        return found | {end: self._reader(self.wiring.last, len(self.wiring.writers))}

    def _writer(self, site: Site) -> Edit:
        def edit(act: Tensor) -> Tensor:
            columns, other = self.wiring.columns(site), self.reference[site].to(act.device, act.dtype)
            added = contributions(self.subject, site, act, other)
            other = other.expand(*other.shape[:2], *act.shape[2:])
            if site.kind is not Kind.HEAD:
                self._join(columns, added, other[:, :, 0])
                return act
            projection, _ = self.layout.tap(site)
            written = projection.forward(other.flatten(2))
            if not self.layout.family.post_norms:
                self._join(columns, added, written)
                return act
            norm, _ = self.layout.tap(Site(site.layer, Kind.ATTN))
            branch = _Branch(columns, added, projection.forward(act.flatten(2)), written, norm)
            self.branches.append(branch)
            self._refer(columns, norm.forward(written))
            return act

        return edit

    def _join(self, columns: slice, added: Tensor, other: Tensor) -> None:
        """Writers that add to the stream as they are, and what they and their biases add in the reference."""
        self.outbox.leave(columns, added)
        self._refer(columns, other)

    def _refer(self, columns: slice, other: Tensor) -> None:
        start = self.references.get(columns.start)
        self.references[columns.stop] = other if start is None else start + other

    def _entry(self, layer: int) -> Edit:
        def edit(act: Tensor) -> Tensor:
            self.streams[layer] = act[:, :, 0]
            return act

        return edit

    def _reader(self, rows: slice, before: int) -> Edit:
        """One reader, whose stream is corrected where it comes in."""

        def edit(act: Tensor) -> Tensor:
            seen = self._seen(rows, before, act[:, :, 0])
            return act if seen is None else seen[0, :, :, None]

        return edit

    def _projection(self, site: Site) -> Edit:
        """Several readers behind one norm: each projects its own version of the stream."""

        def edit(act: Tensor) -> Tensor:
            if self.entered[0] != site.layer:
                self.entered = (site.layer, self._entered(site.layer))
            streams, rows = self.entered[1], self.wiring.rows(site)
            if streams is None:
                return act
            first = self.wiring.rows(Site(site.layer, PROJECTIONS[0])).start
            mine = streams[rows.start - first : rows.stop - first]
            read = torch.bmm(mine.flatten(1, 2), self.layout.weight(site).mT).view(*mine.shape[:3], -1)
            return rearrange(read, "unit batch pos channel -> batch pos unit channel") + self.layout.bias(site)

        return edit

    def _entered(self, layer: int) -> Float[Tensor, "reader batch pos hidden"] | None:
        """What all queries, keys and values of a layer project: together, for the outbox is large and read once."""
        rows = [self.wiring.rows(Site(layer, kind)) for kind in PROJECTIONS]
        entry = Site(layer, Kind.ATTN_IN)
        before = self.wiring.before(Site(layer, PROJECTIONS[0]))
        streams = self._seen(slice(rows[0].start, rows[-1].stop), before, self.streams[layer])
        if streams is None or not self.layout.family.pre_norms:
            return streams
        normed: Tensor = self.layout.tap(entry)[0].forward(streams)
        return normed

    def _seen(
        self, rows: slice, before: int, stream: Float[Tensor, "batch pos hidden"]
    ) -> Float[Tensor, "reader batch pos hidden"] | None:
        """What the readers of these rows take in, each in its own version; None where they see the whole stream."""
        closed = self.closed[rows, :before]
        if not closed.requires_grad and not closed.any():
            return None
        closed = closed.to(stream.device)
        far = _nearer(closed)
        seen = _either(far, self.references[before], stream, self.outbox.take(far[:, None].float() - closed))
        for branch in self.branches:
            if branch.columns.stop <= before:
                left = branch.norm.forward(branch.left(closed[:, branch.columns]))
                reference, own = (-branch.norm.forward(each) for each in (branch.reference, branch.own))
                seen = seen + _either(far, reference, own, left)
        return seen


@dataclass(frozen=True)
class _Branch:
    """Heads that join the stream through a norm."""

    columns: slice
    added: Float[Tensor, "writer batch pos hidden"]
    own: Float[Tensor, "batch pos hidden"]  # before the norm, biases included
    reference: Float[Tensor, "#batch #pos hidden"]
    norm: nn.Module

    def left(self, closed: Float[Tensor, "reader writer"]) -> Float[Tensor, "reader batch pos hidden"]:
        """What each reader sees of the heads, before the norm."""
        far = _nearer(closed)
        share = (far[:, None].float() - closed).to(self.added.dtype)
        return _either(far, self.reference, self.own, torch.einsum("rw,wbtd->rbtd", share, self.added))


def _nearer(closed: Float[Tensor, "reader writer"]) -> Bool[Tensor, " reader"]:
    """Whose sum starts from the reference, as most of its edges are closed."""
    return closed.detach().mean(1) > 0.5


def _either(
    far: Bool[Tensor, " reader"],
    reference: Float[Tensor, "#batch #pos hidden"],
    own: Float[Tensor, "batch pos hidden"],
    more: Float[Tensor, "reader batch pos hidden"],
) -> Float[Tensor, "reader batch pos hidden"]:
    """`more` and, for every reader, one of the two."""
    if far.all() or not far.any():
        return more + (reference if far.any() else own)
    which = torch.stack([far, ~far], 1).to(more)  # a product makes no copy of the two for every reader
    both = torch.stack([reference.expand_as(own), own]).flatten(1)
    return torch.addmm(more.flatten(1), which, both).view_as(more)
