"""What searches by gradient descent share: batches, KL's gradient in parts that fit, Adam whose moments are kept."""

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit import metrics
from subcircuit.batching import batched
from subcircuit.errors import NumericalError
from subcircuit.parallel.group import summed
from subcircuit.parallel.rows import own
from subcircuit.prompts import Prompts

__all__ = ["MOMENTS", "Room", "adam", "moments", "require_finite", "seeded", "step_rows"]

BETAS = (0.9, 0.98)  # of Adam: prices change within tens of steps, and so do the gradients' sizes
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def adam(gates: Mapping[str, Tensor], kept: Mapping[str, Tensor], lr: float) -> torch.optim.Adam:
    """Adam on `gates`, with the moments that `kept` holds as "NAME.MOMENT"."""
    optimiser = torch.optim.Adam(gates.values(), lr=lr, betas=BETAS)
    for name, value in gates.items():
        if f"{name}.{MOMENTS[-1]}" in kept:
            optimiser.state[value] = {key: kept[f"{name}.{key}"].clone() for key in MOMENTS}
    return optimiser


def moments(gates: Mapping[str, Tensor], optimiser: torch.optim.Adam) -> dict[str, Tensor]:
    """What `adam` goes on from; nothing before the first step."""
    states = {name: optimiser.state[value] for name, value in gates.items()}
    return {f"{name}.{key}": moment.clone() for name, state in states.items() for key, moment in state.items()}


def seeded(*seeds: int) -> torch.Generator:
    """Noise that is a function of these numbers, so that a resumed search takes the steps it would have."""
    return torch.Generator().manual_seed(hash(seeds) % (1 << 63))


def step_rows(pairs: int, batch: int, seed: int, step: int) -> Tensor:
    """The rows of one step: each epoch passes over all pairs in its own order."""
    size = min(batch, pairs)
    epoch, part = divmod(step, pairs // size)
    order = torch.randperm(pairs, generator=seeded(seed, -1, epoch))
    return order[part * size : (part + 1) * size]


class Room:
    """How many pairs fit in memory at once; learned from the steps taken."""

    def __init__(self, pairs: int) -> None:
        self.pairs = pairs

    def add_slopes(
        self,
        leaves: list[Tensor],
        weight: float,
        full: Float[Tensor, "prompt vocab"],
        prompts: Prompts,
        rows: Tensor,
        run: Callable[[Tensor], Float[Tensor, "some vocab"]],
    ) -> float:
        """Add the gradient of `weight * KL(full || run)` over these rows to the leaves' own, and return KL."""
        mine, found = own(rows), torch.zeros((), dtype=torch.float64)
        total = [torch.zeros_like(leaf) for leaf in leaves]

        def part(which: Tensor) -> None:
            some = mine[which]
            logits = run(some)
            kl = metrics.kl(full[some].to(logits.device), logits).sum() / len(rows)
            slopes = torch.autograd.grad(weight * kl, leaves)
            for sum_, slope in zip(total, slopes, strict=True):
                sum_ += slope
            found.add_(float(kl.detach()))

        if len(mine):
            self.pairs = batched(part, prompts.lengths[mine], min(self.pairs, len(mine)))
        summed(*total, found)
        for leaf, slope in zip(leaves, total, strict=True):
            leaf.grad = slope if leaf.grad is None else leaf.grad + slope
        return float(found)


def require_finite(step: int, loss: float, leaves: Iterable[Tensor]) -> None:
    """Raise NumericalError for a loss or a gradient that is not finite."""
    slopes = [leaf.grad for leaf in leaves if leaf.grad is not None]
    if math.isfinite(loss) and all(slope.isfinite().all() for slope in slopes):
        return
    what = "gradient of the gates is not finite" if math.isfinite(loss) else f"loss is {loss}"
    raise NumericalError(
        f"the {what} at step {step + 1}",
        "the state of the step before is kept; start again with float32 weights or a smaller --lr",
    )
