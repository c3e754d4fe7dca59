"""Batches of like length, halved when memory runs out."""

import logging
from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from subcircuit.errors import ResourceError

__all__ = ["batched", "out_of_memory"]

log = logging.getLogger(__name__)


def batched(work: Callable[[Tensor], None], lengths: Int[Tensor, " row"], size: int) -> int:
    """Call `work` with row indices, shortest rows first, at most `size` at a time.

    On out-of-memory the batch is halved, and so are those after it; the log says so. `work` must write nothing before
    it has all it needs. Returns the size that fitted. Raises ResourceError when a single row does not fit.
    """
    waiting = list(lengths.argsort(stable=True).split(size))
    while waiting:
        rows = waiting.pop(0)
        try:
            work(rows)
            continue
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        if len(rows) == 1:
            raise ResourceError(
                f"one prompt of {int(lengths[rows[0]])} tokens does not fit in memory",
                "use a smaller model, bfloat16 weights, shorter prompts or another device",
            )
        size = len(rows) // 2
        log.warning("out of memory at %d prompts; going on with %d at a time", len(rows), size)
        waiting = [part for batch in [rows, *waiting] for part in batch.split(size)]
    return size


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is the allocator's, on any device."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        text in str(error) for text in ("not enough memory", "can't allocate memory", "out of memory")
    )
