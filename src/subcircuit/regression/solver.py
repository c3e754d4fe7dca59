"""Exact answers of the lasso and the group lasso, by block coordinate descent from one penalty to the next.

A step minimises a group's quadratic bound, exactly where the group's columns are orthogonal and of one length (Yuan &
Lin 2006; Simon & Tibshirani 2012). Groups that cannot enter are screened by the sequential strong rule (Tibshirani et
al. 2012); what pulls harder than its penalty joins after all. Sweeps are extrapolated where that lowers the
objective (Anderson; Bertrand & Massias 2021). A penalty is done when the duality gap of every target, taken over all
groups, is small. Arrays are numpy's, whose calls cost least: a block of a small model is 8 by 8.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from subcircuit.errors import NumericalError
from subcircuit.regression.problem import Coef, PerTarget, Problem, freedom, lambda_max, residual

__all__ = ["Problem", "duality_gap", "freedom", "lambda_max", "path", "residual", "solve"]

Array = NDArray[np.float64]
Truth = NDArray[np.bool_]
State = tuple[Array, Array]  # coefficients, and what pulls at them
SWEEPS = 5000  # far more than any sound problem takes
LOOK = 2  # sweeps between two looks at the gap
MEMORY = 4  # sweeps that are extrapolated
SMALL = 1 << 16  # numbers that torch's threads take longer to share than numpy to update
RIDGE = 1e-12  # of the products of their changes, which grow alike
ROUNDING = 1e-14  # of a target's power: a smaller gap cannot be told from none
NEVER = 1e300  # the threshold of a group that a target may not use


def solve(
    problem: Problem, alpha: PerTarget, start: Coef | None = None, *, tol: float = 1e-7, before: PerTarget | None = None
) -> Coef:
    """The coefficients for one alpha per target.

    Args:
        start: where to begin; the answer for `before`, a larger alpha, makes a good start and a sharp screen.
        tol: the duality gap at which a target is done, as a share of its power / 2.

    Raises NumericalError when they do not converge.
    """
    descent = _Descent(problem, start)
    descent.to(alpha, lambda_max(problem) if before is None else before, tol)
    return descent.coef


def path(
    problem: Problem, alphas: Float[Tensor, "step block"], *, tol: float = 1e-7
) -> Iterator[tuple[PerTarget, Coef]]:
    """The penalties that were taken and their answers; `alphas` fall, and each step starts from the one before.

    A target that has as many degrees of freedom as there are rows stays where it is: beyond, a fit says nothing.
    """
    descent, rows = _Descent(problem), problem.normal.rows
    before = top = lambda_max(problem)
    full = torch.zeros(len(top), dtype=torch.bool)
    for asked in alphas:
        alpha = before.where(full, asked)
        if (alpha < top).any():
            descent.to(alpha, before, tol)
        coef = descent.coef
        if int(problem.alive.sum()) >= rows:
            full = freedom(problem, alpha, coef) >= rows * problem.columns
        before = alpha
        yield alpha, coef


def duality_gap(problem: Problem, alpha: PerTarget, coef: Coef) -> PerTarget:
    """How far above its optimum each target's objective can be at most."""
    return torch.from_numpy(_Descent(problem, coef).look(alpha.numpy())[1])


class _Descent:
    """An answer that follows the penalty.

    Args:
        start: coefficients to begin with; none: zeros.
    """

    def __init__(self, problem: Problem, start: Coef | None = None) -> None:
        self.problem = problem
        normal, groups = problem.normal, len(problem.weights)
        self.shape = (groups, problem.size, normal.cross.shape[1] // problem.width, problem.width)
        rest = normal.cross.clone() if start is None else normal.cross - normal.gram @ start
        self.rest = rest.contiguous()  # X'(Y - XA) / n
        self.pulling: Array = self.rest.numpy().reshape(self.shape)  # the same memory, block by block
        self.bounds: Array = problem.bounds.numpy()[:, None, None, None]
        # each group's coefficients times its bound, which makes a step one sum
        self.own: Array = np.zeros(self.shape) if start is None else start.numpy().reshape(self.shape) * self.bounds
        self.target: Array = normal.cross.contiguous().numpy().reshape(self.shape) / self.bounds
        self.weights: Array = np.where(problem.allowed.numpy(), problem.weights.numpy()[:, None], NEVER)
        self.shares: Array = problem.weights.numpy()[:, None] / self.bounds[:, 0, 0]
        self.power: Array = problem.power.numpy()
        self.columns = normal.gram.split(problem.size, 1)
        self.entered = [bool(block.any()) for block in self.own]  # groups that ever had a coefficient
        self.steps: list[float] = (1 / problem.bounds).tolist()

    @property
    def coef(self) -> Coef:
        """The answer, in a copy."""
        return torch.from_numpy((self.own / self.bounds).reshape(self.rest.shape))

    def to(self, alpha: PerTarget, before: PerTarget, tol: float) -> None:
        """Sweep until the gap at these penalties is closed. Raises NumericalError when that does not happen."""
        asked: Array = alpha.double().numpy()
        limits = np.maximum(asked * self.weights, 1 / NEVER)  # a target of no power has a penalty of 0
        screen = _norms(self.pulling) >= (2 * asked - before.numpy()) * self.weights
        groups: set[int] = set(np.flatnonzero(screen.any(1) | self.entered).tolist())
        done, trail = max(tol, ROUNDING) * self.power / 2, list[State]()
        for turn in range(1, SWEEPS):
            for group in sorted(groups):
                self._update(group, limits[group])
            if turn >= MEMORY:  # most answers are there before, and a copy takes as long as a sweep of a small model
                trail.append((self.own.copy(), self.pulling.copy()))
            if turn % LOOK:
                continue
            value, gap, joins = self.look(asked)
            if (gap <= done).all():
                return
            groups.update(np.flatnonzero(joins).tolist())
            if len(trail) > MEMORY:
                self._extrapolate(trail, asked, value)
                trail.clear()
        raise NumericalError("the lasso does not converge", "take a larger penalty, or a looser tolerance")

    def look(self, alpha: Array) -> tuple[Array, Array, Truth]:
        """Each target's objective; how far its dual value is below, the dual point being the residual scaled until it
        is feasible; which groups pull harder than their penalty."""
        value, explained, error = self._value(self.own, self.pulling, alpha)
        pull = _norms(self.pulling) / self.weights
        scale = np.minimum(alpha / np.maximum(pull.max(0), 1 / NEVER), 1)
        dual = scale * (self.power - explained) - scale**2 * error / 2
        return value, value - dual, np.asarray((pull > alpha).any(1))

    def _value(self, own: Array, pulling: Array, alpha: Array) -> tuple[Array, Array, Array]:
        """Each target's objective, `<XA, Y> / n`, and the mean square of its residual."""
        explained = np.einsum("gstw,gstw->t", own, self.target)
        error = self.power - explained - np.einsum("gstw,gstw->t", own / self.bounds, pulling)
        return error / 2 + alpha * (_norms(own) * self.shares).sum(0), explained, error

    def _extrapolate(self, trail: Sequence[State], alpha: Array, value: Array) -> None:
        """Each target to the combination of its last states that would not change if sweeps were linear, where that
        lowers its objective."""
        owns, pulls = (np.stack(each) for each in zip(*trail, strict=True))
        steps = np.diff(owns, axis=0)
        products = np.einsum("kgstw,lgstw->tkl", steps, steps)
        size = np.trace(products, axis1=1, axis2=2)[:, None, None]
        products = products / np.maximum(size, 1 / NEVER) + RIDGE * np.eye(len(steps))
        shares = np.linalg.solve(products, np.ones((len(value), len(steps), 1)))[..., 0]
        shares /= shares.sum(1, keepdims=True)
        own, pulling = (np.einsum("tk,kgstw->gstw", shares, each[1:]) for each in (owns, pulls))
        better = (self._value(own, pulling, alpha)[0] < value)[:, None]
        np.copyto(self.own, own, where=better)
        np.copyto(self.pulling, pulling, where=better)

    def _update(self, group: int, limit: Array) -> None:
        """One group's best coefficients, all others held."""
        own = self.own[group]
        new = own + self.pulling[group]
        norms = np.sqrt(np.einsum("stw,stw->t", new, new))
        shrunk = 1 - limit / np.maximum(norms, limit)
        if not self.entered[group]:  # most groups of a large model never do
            if not shrunk.any():
                return
            self.entered[group] = True
        new *= shrunk[:, None]
        moved = ((own - new) * self.steps[group]).reshape(self.problem.size, -1)
        if self.rest.numel() < SMALL:
            rest = self.rest.numpy()
            rest += self.columns[group].numpy() @ moved
        else:
            self.rest.addmm_(self.columns[group], torch.from_numpy(moved))
        own[...] = new


def _norms(values: Array) -> Array:
    """The Frobenius norm of every block."""
    found: Array = np.sqrt(np.einsum("gstw,gstw->gt", values, values))
    return found
