"""Rows shared out between processes: each runs its part of them, all have the sum or the whole table.

Alone, a process runs all rows, in the very batches that `batched` makes.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.batching import batched
from subcircuit.parallel.group import count, rank, summed

__all__ = ["gathered", "own", "shared"]


def own(rows: Int[Tensor, " row"]) -> Int[Tensor, " own"]:
    """This process's share of some rows."""
    return rows[rank() :: count()]


def shared(work: Callable[[Tensor], None], lengths: Int[Tensor, " row"], size: int, *totals: Tensor) -> int:
    """`batched` over this process's share of the rows; then `totals`, to which `work` adds, are those of all rows.

    Every process must come here, and `work` must not. Returns the size that fitted; raises as `batched` does, and
    `Lost` when another process is gone.
    """
    mine = own(lengths.argsort(stable=True))  # neighbours in length go to different processes, which then take as long
    if len(mine):
        size = batched(lambda rows: work(mine[rows]), lengths[mine], size)
    summed(*totals)
    return size


def gathered(run: Callable[[Tensor], Float[Tensor, "some *x"]], lengths: Int[Tensor, " row"], size: int) -> Tensor:
    """What `run` gives for every row, in the order of the rows; each is run by one process. Raises as `shared` does."""
    found: dict[int, Tensor] = {}

    def add(rows: Tensor) -> None:
        found.update(zip(rows.tolist(), run(rows), strict=True))

    (batched if len(lengths) < count() else shared)(add, lengths, size)  # too few to give each process one
    if len(found) == len(lengths):
        return torch.stack([found[row] for row in range(len(lengths))])
    mine = torch.stack(list(found.values()))
    table = torch.zeros(len(lengths), *mine.shape[1:], dtype=mine.dtype)
    table[list(found)] = mine.cpu()
    summed(table)
    return table.to(mine.device)
