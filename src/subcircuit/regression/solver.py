"""The lasso and the group lasso, for many targets at once, on Gram matrices: exact, by block coordinate descent.

Minimises, for every target t by itself,

    1/(2n) ||Y_t - X A_t||^2 + alpha_t sum over groups g of  w_g ||A_gt||_F

where a group is `size` neighbouring source columns and a target `width` neighbouring target columns; both 1: the plain
lasso, in scikit-learn's units (alpha = lambda / 2n of an unnormalised loss). Each step minimises a group's quadratic
bound, exactly where the group's columns are orthogonal and of one length (Yuan & Lin 2006; Simon & Tibshirani 2012).
Groups that cannot enter are screened by the sequential strong rule (Tibshirani et al. 2012) and checked afterwards; a
target is done when its duality gap is small.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from subcircuit.errors import NumericalError
from subcircuit.regression.normal import Normal

__all__ = ["Problem", "duality_gap", "freedom", "lambda_max", "path", "residual", "solve"]

SWEEPS = 5000  # far more than any sound problem takes
LOOK = 3  # sweeps between two looks at the gap, which costs about as much as one
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
    def weights(self) -> Float[Tensor, " group"]:
        """A group's penalty grows with the root of the columns in it that are not dead."""
        alive: Tensor = (self.normal.gram.diagonal() > 0).view(-1, self.size).sum(1)
        return alive.clamp(min=1).double().sqrt()

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
        alive = (self.normal.gram.diagonal() > 0).view(-1, self.size).any(1)
        blocks = self.normal.cross.shape[1] // self.width
        chosen = torch.ones(blocks, len(alive), dtype=torch.bool) if self.open is None else self.open
        return (chosen & alive).T.contiguous()

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
        squares = values.view(-1, self.size, values.shape[1] // self.width, self.width).square()
        return squares.sum((1, 3)).sqrt()


def lambda_max(problem: Problem) -> PerTarget:
    """The smallest alpha at which each target's answer is empty."""
    return _pull(problem, problem.normal.cross).amax(0)


def solve(
    problem: Problem, alpha: PerTarget, start: Coef | None = None, *, tol: float = 1e-7, before: PerTarget | None = None
) -> Coef:
    """The coefficients for one alpha per target.

    Args:
        start: where to begin; the answer for `before`, a larger alpha, makes a good start and a sharp screen.
        tol: the duality gap at which a target is done, as a share of its power / 2.

    Raises NumericalError when they do not converge.
    """
    coef = torch.zeros_like(problem.normal.cross) if start is None else start.clone()
    rest = problem.normal.cross - problem.normal.gram @ coef
    before = lambda_max(problem) if before is None else before
    seen = _pull(problem, rest)
    active = ((seen >= 2 * alpha - before) & problem.allowed).any(1) | problem.norms(coef).any(1)
    for _ in range(SWEEPS):
        _descend(problem, alpha, coef, rest, active, tol)
        rest = problem.normal.cross - problem.normal.gram @ coef
        missed = ((_pull(problem, rest) > alpha * (1 + 1e-9)) & problem.allowed).any(1) & ~active
        if not missed.any():
            return coef
        active |= missed
    raise NumericalError("the lasso does not converge", "take a larger penalty, or a looser tolerance")


def path(
    problem: Problem, alphas: Float[Tensor, "step block"], *, tol: float = 1e-7
) -> Iterator[tuple[PerTarget, Coef]]:
    """The penalties that were taken and their answers; `alphas` fall, and each step starts from the one before.

    A target that has as many degrees of freedom as there are rows stays where it is: beyond, a fit says nothing.
    """
    coef, before = torch.zeros_like(problem.normal.cross), lambda_max(problem)
    full = torch.zeros(len(before), dtype=torch.bool)
    for asked in alphas:
        alpha = before.where(full, asked)
        if not full.all():
            coef = solve(problem, alpha, coef, tol=tol, before=before)
        full = freedom(problem, alpha, coef) >= problem.normal.rows * problem.columns
        before = alpha
        yield alpha, coef


def duality_gap(problem: Problem, alpha: PerTarget, coef: Coef) -> PerTarget:
    """How far above its optimum each target's objective can be at most."""
    return _gap(problem, alpha, coef, problem.normal.cross - problem.normal.gram @ coef)


def freedom(problem: Problem, alpha: PerTarget, coef: Coef) -> PerTarget:
    """Degrees of freedom of each target's answer (Yuan & Lin 2006): a group counts one, the rest as it is shrunk."""
    norms = problem.norms(coef)
    alive = (problem.normal.gram.diagonal() > 0).view(-1, problem.size).sum(1)
    limit = alpha * (problem.weights / problem.bounds)[:, None]
    kept = (norms / (norms + limit)).nan_to_num(0.0)
    found: Tensor = ((norms > 0) * (1 + kept * (alive[:, None] * problem.columns - 1).clamp(min=0))).sum(0)
    return found


def residual(problem: Problem, alpha: PerTarget, coef: Coef) -> PerTarget:
    """By how much each target violates the optimality conditions, per group, at most."""
    rest = problem.normal.cross - problem.normal.gram @ coef
    norms, limit = problem.norms(coef), alpha * problem.weights[:, None]
    scale = (limit / norms.clamp(min=1e-300)).where(norms > 0, torch.zeros_like(norms))
    on = problem.norms(rest - coef * _spread(problem, scale))
    off = (problem.norms(rest) - limit).clamp(min=0)
    return on.where(norms > 0, off).masked_fill(~problem.allowed, 0.0).amax(0)


def _descend(problem: Problem, alpha: PerTarget, coef: Coef, rest: Coef, active: Tensor, tol: float) -> None:
    """Sweeps over the active groups, in place, until every target's gap on them is closed or nothing moves."""
    groups = active.nonzero()[:, 0].tolist()
    if not groups:
        return
    columns = (torch.tensor(groups)[:, None] * problem.size + torch.arange(problem.size)).flatten()
    gram, own, left = problem.normal.gram[columns][:, columns], coef[columns], rest[columns]
    shape = (problem.size, -1, problem.width)
    bounds, weights = problem.bounds.tolist(), problem.weights.tolist()
    steps = [
        (slice(at * problem.size, (at + 1) * problem.size), bounds[g], alpha * (weights[g] / bounds[g]), g)
        for at, g in enumerate(groups)
    ]
    inner = Problem(
        Normal(gram, problem.normal.cross[columns], problem.normal.power, problem.normal.rows),
        problem.size,
        problem.width,
        problem.allowed[groups].T,
    )
    for sweep in range(1, SWEEPS + 1):
        moved = False
        for span, bound, limit, g in steps:
            target = own[span] + left[span] / bound
            blocks = target.view(shape)
            norms = torch.linalg.vector_norm(blocks, dim=(0, 2))
            shrunk = (1 - limit / norms).clamp_(min=0).nan_to_num_(0.0).mul_(problem.allowed[g])
            delta = (blocks * shrunk[:, None]).view(target.shape) - own[span]
            if delta.any():
                own[span] += delta
                left.addmm_(gram[:, span], delta, alpha=-1)
                moved = True
        if not moved or (sweep % LOOK == 0 and (_gap(inner, alpha, own, left) <= tol * problem.power / 2).all()):
            break
        if sweep == SWEEPS:
            raise NumericalError("the lasso does not converge", "take a larger penalty, or a looser tolerance")
    coef[columns] = own


def _gap(problem: Problem, alpha: PerTarget, coef: Coef, rest: Coef) -> PerTarget:
    """Primal minus dual value, the dual point being the residual scaled until it is feasible."""
    blocks = (-1, problem.width)
    explained = (coef * problem.normal.cross).sum(0).view(blocks).sum(1)  # <XA, Y> / n
    fitted = (coef * (problem.normal.cross - rest)).sum(0).view(blocks).sum(1)  # ||XA||^2 / n
    error = problem.power - 2 * explained + fitted
    penalty = alpha * (problem.norms(coef) * problem.weights[:, None]).sum(0)
    pull = _pull(problem, rest).amax(0)
    scale = (alpha / pull).where(pull > alpha, torch.ones_like(alpha))
    dual = scale * (problem.power - explained) - scale.square() * error / 2
    return error / 2 + penalty - dual


def _pull(problem: Problem, rest: Coef) -> Float[Tensor, "group block"]:
    """How hard each group pulls at each target: its gradient over its weight; what exceeds alpha enters."""
    return (problem.norms(rest) / problem.weights[:, None]).masked_fill(~problem.allowed, 0.0)


def _spread(problem: Problem, values: Float[Tensor, "group block"]) -> Coef:
    """One value per block as one per coefficient."""
    return values.repeat_interleave(problem.size, 0).repeat_interleave(problem.width, 1)
