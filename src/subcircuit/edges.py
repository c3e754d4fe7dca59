"""Running a subject with edges switched off: each reader takes in its own version of the residual stream.

What a writer adds in this run is replaced, in the eyes of one reader, by what it adds in a reference:
`stream - sum(closed * (own - reference))` over the writers before it. The model itself runs as it is; only the inputs
of its branches are corrected, so the stream that is handed on stays whole. Where a branch ends in a norm of its own,
the reader sees that norm of the heads that are left to it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from subcircuit.batching import batched
from subcircuit.intervention import Reference
from subcircuit.layout import Edit
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
    found: dict[int, Tensor] = {}

    def run(rows: Tensor) -> None:
        with rewired(subject, wiring, open, reference(rows)):
            logits = subject.logits(prompts[rows])
        found.update(zip(rows.tolist(), logits, strict=True))

    batched(run, prompts.lengths, batch_size)
    return torch.stack([found[row] for row in range(len(prompts))])


def contributions(subject: Subject, site: Site, own: Tensor, other: Tensor) -> Float[Tensor, "writer batch pos hidden"]:
    """What each writer of a HEAD, MLP or RESID site adds to the stream more than it does in the reference.

    Where the attention branch ends in a norm, heads are counted before it.
    """
    delta = own - other.to(own.device, own.dtype)
    by_unit = rearrange(delta, "batch pos unit channel -> unit (batch pos) channel")
    written = torch.bmm(by_unit, subject.layout.weight(site)) if site.kind is Kind.HEAD else by_unit
    return written.view(len(written), *own.shape[:2], -1)


class _Run:
    """One pass: writers leave what they add more than their references, readers take from it what is closed to them."""

    def __init__(self, subject: Subject, wiring: Wiring, closed: Table, reference: Mapping[Site, Tensor]) -> None:
        self.subject, self.layout, self.wiring = subject, subject.layout, wiring
        self.closed, self.reference = closed, reference
        self.streams: dict[int, Tensor] = {}
        self.outbox = _Outbox(len(wiring.writers))
        self.branches: list[tuple[slice, Tensor, Tensor, nn.Module]] = []  # columns, additions, the branch, its norm

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
            added = contributions(self.subject, site, act, self.reference[site])
            columns = self.wiring.columns(site)
            if site.kind is Kind.HEAD and self.layout.family.post_norms:
                projection, _ = self.layout.tap(site)
                norm, _ = self.layout.tap(Site(site.layer, Kind.ATTN))
                self.branches.append((columns, added, projection.forward(act.flatten(2)), norm))
            else:
                self.outbox.leave(columns, added)
            return act

        return edit

    def _entry(self, layer: int) -> Edit:
        def edit(act: Tensor) -> Tensor:
            self.streams[layer] = act[:, :, 0]
            return act

        return edit

    def _reader(self, rows: slice, before: int) -> Edit:
        """One reader, whose stream is corrected where it comes in."""

        def edit(act: Tensor) -> Tensor:
            taken = self._taken(rows, before)
            return act if taken is None else act - taken[0, :, :, None]

        return edit

    def _projection(self, site: Site) -> Edit:
        """Several readers behind one norm: each projects its own version of the stream."""

        def edit(act: Tensor) -> Tensor:
            taken = self._taken(self.wiring.rows(site), self.wiring.before(site))
            if taken is None:
                return act
            streams = self.streams[site.layer] - taken
            if self.layout.family.pre_norms:
                streams = self.layout.tap(Site(site.layer, Kind.ATTN_IN))[0].forward(streams)
            read = torch.bmm(streams.flatten(1, 2), self.layout.weight(site).mT).view(*streams.shape[:3], -1)
            return rearrange(read, "unit batch pos channel -> batch pos unit channel") + self.layout.bias(site)

        return edit

    def _taken(self, rows: slice, before: int) -> Float[Tensor, "reader batch pos hidden"] | None:
        """What the readers of these rows must not see, in their own versions; None where they see all."""
        closed = self.closed[rows, :before]
        if not closed.requires_grad and not closed.any():
            return None
        total = self.outbox.take(closed)
        for columns, added, branch, norm in self.branches:
            if columns.stop <= before:
                share = closed[:, columns].to(added.device, added.dtype)
                left = branch - torch.einsum("rw,wbtd->rbtd", share, added)
                total = total + (norm.forward(branch) - norm.forward(left))
        return total


class _Outbox:
    """What writers have left so far, side by side in one tensor, so that readers take from it by one product."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.columns: list[int] = []
        self.left: list[Tensor] = []
        self.buffer: Tensor | None = None

    def leave(self, columns: slice, added: Float[Tensor, "writer batch pos hidden"]) -> None:
        if self.buffer is None:
            self.buffer = added.new_empty(self.size, *added.shape[1:])
        slot = self.buffer[len(self.columns) : len(self.columns) + len(added)]
        self.left.append(_Leave.apply(added, slot))  # type: ignore[no-untyped-call]
        self.columns += range(columns.start, columns.stop)

    def take(self, closed: Float[Tensor, "reader writer"]) -> Float[Tensor, "reader batch pos hidden"]:
        """The sum of what is closed to each reader. Its columns are all writers up to some point."""
        assert self.buffer is not None
        columns = [column for column in self.columns if column < closed.shape[1]]
        share = closed[:, columns].to(self.buffer.device, self.buffer.dtype)
        taken: Tensor = _Take.apply(share, self.buffer[: len(columns)], *self.left)  # type: ignore[no-untyped-call]
        return taken


class _Leave(torch.autograd.Function):
    """A copy into a slot, through which gradients come back: autograd keeps no second one."""

    @staticmethod
    def forward(ctx: Any, added: Tensor, slot: Tensor) -> Tensor:
        return slot.copy_(added).detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _Take(torch.autograd.Function):
    """`share @ box`, where the box's rows are what `left` holds, one after the other."""

    @staticmethod
    def forward(ctx: Any, share: Tensor, box: Tensor, *left: Tensor) -> Tensor:
        ctx.save_for_backward(share)
        ctx.box, ctx.lengths = box.detach(), [len(each) for each in left]  # later writers use other rows of it
        return (share @ box.flatten(1)).view(len(share), *box.shape[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (share,) = ctx.saved_tensors
        flat = grad.flatten(1)
        to_share = flat @ ctx.box.flatten(1).mT if ctx.needs_input_grad[0] else None
        to_box = (share.mT @ flat).view(ctx.box.shape)
        return to_share, None, *(_pieces(to_box, ctx.lengths))


def _pieces(box: Tensor, lengths: list[int]) -> list[Tensor | None]:
    """The rows of each of `lengths`; None for those past the end of the box, which came later."""
    pieces: list[Tensor | None] = []
    start = 0
    for length in lengths:
        pieces.append(box[start : start + length] if start + length <= len(box) else None)
        start += length
    return pieces
