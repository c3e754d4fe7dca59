"""What the writers of one pass have left, and sums of it for many readers at once, with gradients at little memory."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Outbox"]

FEW = 3  # times less: from there it pays to copy out the rows that are taken from


class Outbox:
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

    def take(self, share: Float[Tensor, "reader writer"]) -> Float[Tensor, "reader batch pos hidden"]:
        """For each reader the sum of these shares, negative ones too. Its columns are all writers up to some point."""
        assert self.buffer is not None
        columns = [column for column in self.columns if column < share.shape[1]]
        some = share[:, columns].to(self.buffer.device, self.buffer.dtype)
        if not torch.is_grad_enabled() and FEW * some.any(0).sum() < len(columns):
            used = some.any(0).nonzero()[:, 0]
            return (some[:, used] @ self.buffer[used].flatten(1)).view(len(some), *self.buffer.shape[1:])
        taken: Tensor = _Take.apply(some, self.buffer[: len(columns)], *self.left)  # type: ignore[no-untyped-call]
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
