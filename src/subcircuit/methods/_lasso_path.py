"""Every target of a model regressed on all writers before it, down a path of penalties, and the edges that this keeps.

Targets are solved together, some layers at a time. What a step of the path says of an edge is the Frobenius norm of its
block; the edge's score is the mean over the path, so that what enters early and grows large comes first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.methods._lasso_study import LassoStudy, Sums
from subcircuit.progress import Progress
from subcircuit.regression.normal import Grams, Normal
from subcircuit.regression.selection import bic, by_bic, by_cv, error, frequent, halves
from subcircuit.regression.solver import Problem, freedom, lambda_max, path, solve

__all__ = ["LassoPath"]

COEFFICIENTS = 1 << 17  # of targets that are solved together
TOLERANCE = 1e-3  # duality gap, as a share of half a target's power
PICKED = 0.75  # of the halves: what stability asks for


@dataclass(frozen=True)
class _Part:
    """Some targets, and the columns they are regressed on."""

    grams: Grams
    first: int  # target, of those that vary; the output follows them
    last: int
    width: int
    before: int  # writers that vary before the last of them
    offset: int  # the target whose columns come first in the Gram matrix


class LassoPath:
    """The path of every target.

    Args:
        ratios: of each target's lambda_max, falling; the study's `alpha` goes before them, one penalty for all.
        plain: the lasso on single columns; else groups are a writer's columns by a target's.
    """

    def __init__(self, study: LassoStudy, sums: Sums, ratios: Float[Tensor, " step"], *, plain: bool) -> None:
        self.study, self.sums, self.plain, self.alpha = study, sums, plain, study.own.alpha
        self.ratios = ratios if self.alpha is None else torch.ones(1, dtype=torch.float64)
        self.select = study.own.select if self.alpha is None else "alpha"

    def run(self, tell: Progress) -> None:
        """Solve what is not solved yet; the study's memory has it afterwards."""
        parts, memory = list(self._parts()), self.study.memory
        if "norms" not in memory.tensors:
            targets, writers = self.sums.open.shape
            steps, folds = len(self.ratios), len(self.sums.output) if self.select == "cv" else 0
            scores = torch.zeros(steps, targets, dtype=torch.float64)
            empty = {"norms": torch.zeros(steps, targets, writers), "top": scores[0], "bic": scores}
            self.study.keep({**empty, "held": scores.expand(folds, -1, -1)}, parts=0)
        for at, part in enumerate(parts):
            if at >= memory.facts["parts"]:
                self._solve(part)
                self.study.keep({}, parts=at + 1)
            tell("lasso", at + 1, len(parts))

    @cached_property
    def _whole(self) -> dict[Grams, Normal]:
        """All rows."""
        return {grams: grams.of() for grams in (self.sums.inner, self.sums.output)}

    @property
    def scores(self) -> Float[Tensor, "reader writer"]:
        """Each edge's norm, averaged over the path."""
        return self._table(self.study.memory.tensors["norms"].mean(0))

    def chosen(self, select: str) -> Bool[Tensor, "reader writer"]:
        """The edges of the step that a rule takes for each target: "cv", "bic" or "stability"."""
        memory = self.study.memory.tensors
        step = by_cv(memory["held"]) if select == "cv" else by_bic(memory["bic"])
        if select == "stability":
            return self._table(self._stable(step)) > 0
        return self._table(memory["norms"][step, torch.arange(len(step))]) > 0

    def _table(self, by_target: Float[Tensor, "target writer"]) -> Float[Tensor, "reader writer"]:
        """Values of targets as values of their readers; of a key or value that several heads share, the largest."""
        table, writers = torch.zeros(self.study.wiring.allowed.shape), self.sums.writers
        for row, target in enumerate(self.sums.targets.tolist()):
            for reader in self.study.targets[target].readers:
                table[reader, writers] = torch.maximum(table[reader, writers], by_target[row].float())
        table[-1, writers] = by_target[-1].float()
        return table

    def _parts(self) -> Iterator[_Part]:
        sums = self.sums
        targets = [self.study.targets[target] for target in sums.targets.tolist()]
        first = 0
        for last, target in enumerate(targets, 1):
            ends = last == len(targets) or targets[last].site.layer != target.site.layer
            before = int((sums.writers < target.before).sum())
            full = (last - first) * sums.width * before * sums.size >= COEFFICIENTS
            if last == len(targets) or (ends and full):
                yield _Part(sums.inner, first, last, sums.width, before, 0)
                first = last
        yield _Part(sums.output, len(targets), len(targets) + 1, sums.width_out, len(sums.writers), len(targets))

    def _problem(self, part: _Part, normal: Normal) -> Problem:
        columns = part.before * self.sums.size
        low, high = ((at - part.offset) * part.width for at in (part.first, part.last))
        cut = Normal(
            normal.gram[:columns, :columns], normal.cross[:columns, low:high], normal.power[low:high], normal.rows
        )
        chosen = self.sums.open[part.first : part.last, : part.before]
        if self.plain:
            chosen = chosen.repeat_interleave(self.sums.size, 1).repeat_interleave(part.width, 0)
            return Problem(cut, open=chosen)
        return Problem(cut, self.sums.size, part.width, chosen)

    def _solve(self, part: _Part) -> None:
        memory, rows = self.study.memory.tensors, slice(part.first, part.last)
        problem = self._problem(part, self._whole[part.grams])
        top = lambda_max(problem)
        alphas = top * self.ratios[:, None] if self.alpha is None else torch.full((1, len(top)), self.alpha)
        alphas = alphas.double()
        memory["top"][rows] = self._by_target(top, part).amax(0)
        for step, (alpha, coef) in enumerate(path(problem, alphas, tol=TOLERANCE)):
            memory["norms"][step, rows, : part.before] = self._block_norms(problem, coef, part)
            if self.select in ("bic", "stability"):
                used = freedom(problem, alpha, coef)
                score = bic(problem, error(problem.normal, coef, problem.width), used)
                memory["bic"][step, rows] = self._by_target(score, part).sum(0)
        for fold in range(len(part.grams) if self.select == "cv" else 0):
            inside, outside = (self._problem(part, each) for each in (part.grams.without(fold), part.grams.of([fold])))
            for step, (_, coef) in enumerate(path(inside, alphas, tol=TOLERANCE)):
                left = error(outside.normal, coef, problem.width)
                memory["held"][fold, step, rows] = self._by_target(left, part).sum(0)

    def _stable(self, step: Tensor) -> Bool[Tensor, "target writer"]:
        """What most halves of the data choose at the penalty of `step`."""
        found = torch.zeros_like(self.sums.open)
        for part in self._parts():
            rows = slice(part.first, part.last)
            top = self.study.memory.tensors["top"][rows]
            alpha = (top * self.ratios[step[rows]]).repeat_interleave(part.width if self.plain else 1)
            picked = []
            for half in halves(len(part.grams)):
                problem = self._problem(part, part.grams.of(half))
                picked.append(self._block_norms(problem, solve(problem, alpha, tol=TOLERANCE), part) > 0)
            found[rows, : part.before] = frequent(torch.stack(picked), PICKED)
        return found

    def _block_norms(self, problem: Problem, coef: Tensor, part: _Part) -> Float[Tensor, "target writer"]:
        squares = problem.norms(coef).square()
        if self.plain:
            squares = squares.view(part.before, self.sums.size, -1, part.width).sum((1, 3))
        return squares.sqrt().T.float()

    def _by_target(self, values: Tensor, part: _Part) -> Float[Tensor, "column target"]:
        return values.view(part.last - part.first, -1).T
