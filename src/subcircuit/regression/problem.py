"""The lasso and the group lasso for many targets at once, said on Gram matrices, and what holds at their optimum.

For every target t by itself,

    minimise over A_t:   1/(2n) ||Y_t - X A_t||^2 + alpha_t sum over groups g of  w_g ||A_gt||_F

where a group is `size` neighbouring source columns and a target `width` neighbouring target columns; both 1: the plain
lasso, in scikit-learn's units (alpha = lambda / 2n of an unnormalised loss).
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from subcircuit.regression.normal import Normal

__all__ = ["Coef", "PerTarget", "Problem", "freedom", "lambda_max", "residual"]

Coef = Float[Tensor, "source target"]
PerTarget = Float[Tensor, " block"]


@dataclass(frozen=True)
class Problem:
    """What is regressed on what: data, how columns are grouped, and which groups each target may use."""

    normal: Normal
    size: int = 1  # source columns of a group
    width: int = 1  # target columns of a target
    open: Bool[Tensor, "block group"] | None = None  # None: every group, for all targets

    @cached_property
    def alive(self) -> Int[Tensor, " group"]:
        """How many columns of each group are not dead."""
        found: Tensor = (self.normal.gram.diagonal() > 0).view(-1, self.size).sum(1)
        return found

    @cached_property
    def weights(self) -> Float[Tensor, " group"]:
        """A group's penalty grows with the root of the columns in it that are not dead."""
        return self.alive.clamp(min=1).double().sqrt()

    @cached_property
    def bounds(self) -> Float[Tensor, " group"]:
        """The largest eigenvalue of each group's own Gram block; of a dead group, 1."""
        own = self.normal.gram.unflatten(0, (-1, self.size)).unflatten(2, (-1, self.size))
        blocks = own.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        found: Tensor = torch.linalg.eigvalsh(blocks)[:, -1] if self.size > 1 else blocks[:, 0, 0]
        return found.where(found > 0, torch.ones_like(found))

    @cached_property
    def allowed(self) -> Bool[Tensor, "group block"]:
        """`open`, group by group; a dead group is open to none."""
        blocks = self.normal.cross.shape[1] // self.width
        chosen = torch.ones(blocks, len(self.alive), dtype=torch.bool) if self.open is None else self.open
        return (chosen & (self.alive > 0)).T.contiguous()

    @cached_property
    def power(self) -> PerTarget:
        """Mean square of each target, over its columns together."""
        return self.normal.power.view(-1, self.width).sum(1)

    @cached_property
    def columns(self) -> Int[Tensor, " block"]:
        """How many columns of each target vary; at least 1."""
        found: Tensor = (self.normal.power > 0).view(-1, self.width).sum(1)
        return found.clamp(min=1)

    def norms(self, values: Coef) -> Float[Tensor, "group block"]:
        """The Frobenius norm of every block of a table of source by target columns."""
        blocks = values.view(-1, self.size, values.shape[1] // self.width, self.width)
        found: Tensor = torch.linalg.vector_norm(blocks, dim=(1, 3))
        return found

    def pull(self, rest: Coef) -> Float[Tensor, "group block"]:
        """How hard each group pulls at each target: its gradient over its weight; what exceeds alpha enters."""
        return (self.norms(rest) / self.weights[:, None]).masked_fill(~self.allowed, 0.0)


def lambda_max(problem: Problem) -> PerTarget:
    """The smallest alpha at which each target's answer is empty."""
    return problem.pull(problem.normal.cross).amax(0)


def freedom(problem: Problem, alpha: PerTarget, coef: Coef) -> PerTarget:
    """Degrees of freedom of each target's answer (Yuan & Lin 2006): a group counts one, the rest as it is shrunk."""
    norms = problem.norms(coef)
    limit = alpha * (problem.weights / problem.bounds)[:, None]
    kept = (norms / (norms + limit)).nan_to_num(0.0)
    more = (problem.alive[:, None] * problem.columns - 1).clamp(min=0)
    found: Tensor = ((norms > 0) * (1 + kept * more)).sum(0)
    return found


def residual(problem: Problem, alpha: PerTarget, coef: Coef) -> PerTarget:
    """By how much each target violates the optimality conditions, per group, at most."""
    rest = problem.normal.cross - problem.normal.gram @ coef
    norms, limit = problem.norms(coef), alpha * problem.weights[:, None]
    scale = (limit / norms.clamp(min=1e-300)).where(norms > 0, torch.zeros_like(norms))
    spread = scale.repeat_interleave(problem.size, 0).repeat_interleave(problem.width, 1)
    on = problem.norms(rest - coef * spread)
    off = (problem.norms(rest) - limit).clamp(min=0)
    return on.where(norms > 0, off).masked_fill(~problem.allowed, 0.0).amax(0)
