"""The lasso solver beside scikit-learn's, and by its own optimality conditions; Gram matrices beside the data."""

import pytest
import torch
from sklearn.linear_model import Lasso
from torch import Tensor

from subcircuit.errors import NumericalError
from subcircuit.regression.normal import Grams, Normal
from subcircuit.regression.problem import Problem, freedom, lambda_max, residual
from subcircuit.regression.selection import by_bic, by_cv, error, frequent, halves
from subcircuit.regression.solver import duality_gap, path, solve


def data(rows: int = 150, sources: int = 30, targets: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Correlated sources; each target is a sum of four of them and noise."""
    torch.manual_seed(seed)
    x = torch.randn(rows, sources).double() @ (torch.eye(sources) + 0.3 * torch.randn(sources, sources)).double()
    coef = torch.zeros(sources, targets).double()
    for target in range(targets):
        coef[torch.randperm(sources)[:4], target] = torch.randn(4).double() + 1
    return x, x @ coef + 0.3 * torch.randn(rows, targets)


def normal(x: Tensor, y: Tensor, *, centre: bool = False) -> Normal:
    grams = Grams(x.shape[1], y.shape[1], centre=centre)
    grams.add(x, y)
    return grams.of()


# -- Gram matrices --------------------------------------------------------------------------------------------------


def test_batches_and_folds_add_up_to_the_data() -> None:
    x, y = data()
    grams = Grams(30, 6, folds=3, centre=True)
    folds = torch.arange(150) % 3
    for part in torch.arange(150).split(40):
        grams.add(x[part], y[part], folds[part])
    rest = folds != 1
    mean = x[rest].mean(0)
    expected = (x[rest] - mean).T @ (y[rest] - y[rest].mean(0)) / int(rest.sum())
    torch.testing.assert_close(grams.without(1).cross, expected)
    torch.testing.assert_close(grams.of().power, y.var(0, unbiased=False))
    assert (grams.rows, grams.of([1]).rows) == (150, 50)


def test_a_nan_is_refused_with_its_column() -> None:
    x, y = data()
    x[3, 7] = torch.nan
    with pytest.raises(NumericalError, match="source column 7 is not finite"):
        normal(x, y)
    with pytest.raises(NumericalError, match="no rows"):
        Grams(30, 6).of()


def test_whitened_sources_are_uncorrelated_within_a_block_and_say_the_same() -> None:
    x, y = data()
    x[:, 4] = x[:, 3]  # a block of less than full rank
    grams = Grams(30, 6, folds=3, centre=True)
    grams.add(x + 1, y, torch.arange(150) % 3)
    white = grams.whitened(5)
    own = white.of().gram.view(6, 5, 6, 5).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    eyes = torch.eye(5).double().repeat(6, 1, 1)
    eyes[0, 0, 0] = 0
    torch.testing.assert_close(own, eyes, rtol=0, atol=1e-9)
    for one, other in zip((grams.of([1]), grams.without(2)), (white.of([1]), white.without(2)), strict=True):
        fits = [each.cross.T @ torch.linalg.pinv(each.gram, rtol=1e-9) @ each.cross for each in (one, other)]
        torch.testing.assert_close(*fits)
        assert torch.equal(one.power, other.power) and one.rows == other.rows


# -- the plain lasso ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("rows", [150, 20])  # also with fewer rows than sources
def test_it_is_scikit_learns_lasso(share: float, rows: int) -> None:
    x, y = data(rows)
    problem = Problem(normal(x, y, centre=True))
    alpha = share * lambda_max(problem)
    coef = solve(problem, alpha, tol=1e-13)
    assert float(residual(problem, alpha, coef).max()) < 1e-6
    for target in range(6):
        model = Lasso(alpha=float(alpha[target]), tol=1e-12, max_iter=1_000_000).fit(x.numpy(), y[:, target].numpy())
        theirs = torch.from_numpy(model.coef_)[:, None]
        one = Problem(problem.normal.columns(target, target + 1))
        assert float(residual(one, alpha[[target]], theirs)) < 1e-6
        torch.testing.assert_close(coef[:, [target]], theirs, rtol=0, atol=1e-6)
        assert torch.equal(coef[:, [target]] != 0, theirs != 0)


def test_nothing_enters_at_lambda_max_and_something_just_below() -> None:
    problem = Problem(normal(*data()))
    top = lambda_max(problem)
    assert not solve(problem, top * 1.000001).any()
    assert (solve(problem, top * 0.99, tol=1e-12) != 0).any(0).all()


def test_a_path_with_warm_starts_and_screening_is_every_step_by_itself() -> None:
    problem = Problem(normal(*data()))
    alphas = lambda_max(problem) * torch.logspace(-0.1, -2, 8).double()[:, None]
    for alpha, coef in path(problem, alphas, tol=1e-13):
        torch.testing.assert_close(coef, solve(problem, alpha, tol=1e-13), rtol=0, atol=1e-6)


def test_dead_and_closed_sources_have_no_coefficient() -> None:
    x, y = data()
    x[:, 5] = 0
    chosen = torch.ones(6, 30, dtype=torch.bool)
    chosen[2, :15] = False
    problem = Problem(normal(x, y), open=chosen)
    coef = solve(problem, 0.01 * lambda_max(problem), tol=1e-10)
    assert not coef[5].any() and not coef[:15, 2].any() and coef[15:, 2].any()


def test_a_constant_source_has_no_coefficient() -> None:
    x, y = data()
    x[:, 5] = 3.3
    problem = Problem(normal(x, y, centre=True))
    coef = solve(problem, 1e-4 * lambda_max(problem), tol=1e-10)
    assert not coef[5].any() and coef[6:].any() and coef.isfinite().all()


def test_what_the_screen_leaves_out_by_mistake_joins() -> None:
    """`before` is claimed to be hardly above alpha, so the strong rule passes almost nothing."""
    problem = Problem(normal(*data()))
    alpha = 0.05 * lambda_max(problem)
    coef = solve(problem, alpha, before=1.01 * alpha, tol=1e-12)
    torch.testing.assert_close(coef, solve(problem, alpha, tol=1e-12), rtol=0, atol=1e-6)
    assert float(residual(problem, alpha, coef).max()) < 1e-6


def test_sources_that_are_nearly_alike_take_some_hundred_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 5000 where two sweeps are not extrapolated."""
    torch.manual_seed(3)
    x = torch.randn(400, 1).double() + 0.1 * torch.randn(400, 12)
    problem = Problem(normal(x, x @ torch.randn(12, 2).double() + 0.1 * torch.randn(400, 2)))
    alpha = 1e-4 * lambda_max(problem)
    monkeypatch.setattr("subcircuit.regression.solver.SWEEPS", 2000)
    assert float(residual(problem, alpha, solve(problem, alpha, tol=1e-11)).max()) < 1e-6


def test_a_problem_that_does_not_converge_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subcircuit.regression.solver.SWEEPS", 4)
    problem = Problem(normal(*data()))
    with pytest.raises(NumericalError, match="does not converge"):
        solve(problem, 0.001 * lambda_max(problem), tol=1e-13)


def test_a_target_that_does_not_vary_has_an_empty_answer() -> None:
    x, y = data()
    y[:, 1] = 0
    problem = Problem(normal(x, y))
    coef = solve(problem, 0.1 * lambda_max(problem), tol=1e-9)
    assert not coef[:, 1].any() and coef[:, 0].any() and coef.isfinite().all()


# -- the group lasso ------------------------------------------------------------------------------------------------


def test_orthonormal_groups_have_the_answer_in_closed_form() -> None:
    torch.manual_seed(1)
    x = torch.linalg.qr(torch.randn(200, 12).double())[0] * 200**0.5  # X'X / n = 1
    y = x[:, :3] @ torch.randn(3, 4).double() + 0.5 * torch.randn(200, 4)
    problem = Problem(normal(x, y), size=3, width=4)
    alpha = 0.3 * lambda_max(problem)
    blocks = (x.T @ y / 200).view(4, 3, 4)
    norms = blocks.flatten(1).norm(dim=1)
    shrunk = (1 - alpha * 3**0.5 / norms).clamp(min=0)
    torch.testing.assert_close(solve(problem, alpha, tol=1e-13).view(4, 3, 4), blocks * shrunk[:, None, None])


def test_whole_blocks_enter_or_stay_out_and_the_gap_closes() -> None:
    problem = Problem(normal(*data()), size=5, width=3)
    alpha = 0.2 * lambda_max(problem)
    coef = solve(problem, alpha, tol=1e-12)
    blocks = coef.view(6, 5, 2, 3).transpose(1, 2).flatten(2) != 0
    assert torch.equal(blocks.any(2), blocks.all(2)) and 0 < blocks.any(2).sum() < 12
    assert float(residual(problem, alpha, coef).max()) < 1e-5
    assert (duality_gap(problem, alpha, coef) <= 1e-12 * problem.power).all()


def test_the_gap_bounds_how_far_a_wrong_answer_is_off() -> None:
    problem = Problem(normal(*data()))
    alpha = 0.1 * lambda_max(problem)
    best = _objective(problem, alpha, solve(problem, alpha, tol=1e-13))
    rough = solve(problem, alpha, tol=0.05)
    assert (duality_gap(problem, alpha, rough) >= _objective(problem, alpha, rough) - best - 1e-12).all()


# -- which penalty --------------------------------------------------------------------------------------------------


def test_errors_are_those_of_the_data() -> None:
    x, y = data()
    coef = torch.randn(30, 6).double() * 0.1
    torch.testing.assert_close(error(normal(x, y), coef, 2), ((y - x @ coef) ** 2).mean(0).view(3, 2).sum(1))


def test_freedom_of_the_lasso_is_its_nonzeros() -> None:
    problem = Problem(normal(*data()))
    alpha = 0.1 * lambda_max(problem)
    coef = solve(problem, alpha, tol=1e-10)
    torch.testing.assert_close(freedom(problem, alpha, coef), (coef != 0).sum(0).double())


def test_one_standard_error_takes_the_sparsest_step_within_it() -> None:
    held = torch.tensor([[5.0, 2.2, 2.0, 2.1], [5.0, 2.0, 1.8, 3.0], [5.0, 1.8, 1.6, 2.4]])[:, :, None]
    assert by_cv(held).tolist() == [2]  # the least is 1.8 with an error of 0.12; 2.0 lies beyond
    assert by_cv(held + torch.tensor([0.3, 0.0, -0.3])[:, None, None]).tolist() == [1]
    assert by_bic(torch.tensor([[3.0], [1.0], [1.0]])).tolist() == [1]


def test_halves_come_in_complementary_pairs() -> None:
    found = halves(4)
    assert len(found) == 6 and all(sorted(a + b) == [0, 1, 2, 3] for a, b in zip(found[::2], found[1::2], strict=True))
    picked = torch.tensor([[[True, False]], [[True, True]], [[True, False]], [[False, False]]])
    assert frequent(picked, 0.75).tolist() == [[True, False]]


def _objective(problem: Problem, alpha: Tensor, coef: Tensor) -> Tensor:
    return error(problem.normal, coef, 1) / 2 + alpha * coef.abs().sum(0)
