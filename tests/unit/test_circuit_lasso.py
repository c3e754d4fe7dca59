"""CircuitLasso: a linear model's edges, planted and compiled circuits, every option, and what is refused or warned."""

import logging
from dataclasses import replace

import pytest
import torch

from subcircuit.circuit import Circuit
from subcircuit.edge_tables import Edges
from subcircuit.errors import NumericalError, ResourceError, UnknownName, UnsupportedModel, UsageError
from subcircuit.ground_truth.bench import score
from subcircuit.ground_truth.cases import cases
from subcircuit.ground_truth.planted import planted, planted_edges
from subcircuit.methods._lasso_study import LassoStudy
from subcircuit.methods.circuit_lasso import CircuitLasso
from subcircuit.progress import silent
from subcircuit.regression.normal import Grams
from subcircuit.regression.solver import Problem, solve
from subcircuit.sites import Kind, Site
from tiny_edges import DECODERS
from tiny_task import RandomTask, planted_study

QUICK = CircuitLasso(kl=0.01, pairs=32, validation=16)
WRITERS = ["input", "0.head.1", "0.mlp", "1.head.2", "1.mlp"]  # of a planted model, those that write something


@pytest.fixture(autouse=True)
def no_gradients() -> None:
    """Methods need none, and none are left on."""


# -- what is found --------------------------------------------------------------------------------------------------


def test_the_support_of_a_linear_structural_model_is_recovered_exactly() -> None:
    """Eight sites of four columns in order, each a sum of some earlier ones and noise of its own."""
    torch.manual_seed(0)
    true = torch.rand(8, 8).triu(1).gt(0.7)
    sites: list[torch.Tensor] = []
    for site in range(8):
        value = torch.randn(4000, 4).double()
        for source in true[:, site].nonzero()[:, 0].tolist():
            value = value + 0.5 * sites[source] @ torch.linalg.qr(torch.randn(4, 4).double())[0]
        sites.append(value / value.std())
    x = torch.cat(sites, 1)
    grams = Grams(32, 32, centre=True)
    grams.add(x, x)
    problem = Problem(grams.of(), 4, 4, torch.ones(8, 8, dtype=torch.bool).tril(-1))
    found = problem.norms(solve(problem, torch.full((8,), 0.05).double(), tol=1e-9)) > 0
    assert torch.equal(found, true)


@pytest.mark.parametrize("decoder", DECODERS)
def test_only_planted_edges_have_scores_and_nothing_else_is_kept(decoder: str) -> None:
    subject, task = planted_study(decoder)
    circuit = QUICK.find(subject, task)
    edges, planted_ones = _edges(circuit), planted_edges(subject)
    true = torch.zeros_like(edges.kept)
    for name in planted_ones:
        true[edges.wiring.parse(name)] = True
    assert not edges.scores[~true].any()
    assert (edges.scores[true] > 0).float().mean() > 0.8
    assert set(edges.names()) <= planted_ones
    assert circuit.origin.result["kl"] <= 0.01


@pytest.mark.parametrize("name", ["detect-pattern", "frac-prevs", "reverse", "sort"])
def test_compiled_edges_that_carry_tokens_outrank_all_others(name: str) -> None:
    (case,) = cases([f"compiled-{name}"])
    result = score("circuit-lasso", case, replace(QUICK, pairs=64, validation=32).find(case.subject, case.task))
    assert result.edges is not None and result.edges.auroc == 1.0
    assert result.nodes is not None and result.nodes.auroc == 1.0


@pytest.mark.parametrize("select", ["cv", "bic", "stability"])
def test_every_selection_keeps_planted_edges_alone_and_most_of_them(select: str) -> None:
    subject, task = planted_study("tracr")
    circuit = replace(QUICK, select=select).find(subject, task)
    found, planted_ones = set(_edges(circuit).names()), planted_edges(subject)
    assert found <= planted_ones and len(found) > 0.8 * len(planted_ones)
    assert [str(node) for node in circuit.nodes(Kind.HEAD)] == ["0.head.1", "1.head.2"]


@pytest.mark.parametrize(
    "options",
    [
        {"rows": "tokens"},
        {"rows": "prompts"},
        {"targets": "outputs"},
        {"sink": "logit-difference"},
        {"channels": 0},
        {"channels": 3},
        {"standardise": False},
        {"penalty": "plain", "channels": 2},
    ],
    ids=str,
)
def test_every_option_ranks_planted_edges_well_above_chance(options: dict[str, object]) -> None:
    (case,) = cases(["planted-llama"])
    circuit = replace(QUICK, size=0.2, **options).find(case.subject, case.task)  # type: ignore[arg-type]
    result = score("circuit-lasso", case, circuit)
    assert result.edges is not None and result.edges.auroc is not None and result.edges.auroc > 0.85


def test_the_papers_form_runs() -> None:
    subject, task = planted_study()
    circuit = CircuitLasso.paper(pairs=32, validation=16, channels=4).find(subject, task)
    assert _edges(circuit).kept.any()
    assert circuit.origin.settings["penalty"] == "plain" and circuit.origin.settings["prune"] is False


def test_a_head_that_writes_nothing_has_no_columns_and_later_parts_are_no_sources() -> None:
    subject, task = planted_study()
    study = LassoStudy("circuit-lasso", QUICK, subject, task)
    sums = study.sums(silent)
    assert [study.wiring.writers[writer] for writer in sums.writers.tolist()] == WRITERS
    for target, row in zip(sums.targets.tolist(), sums.open, strict=False):
        assert not row[sums.writers >= study.targets[target].before].any()


def test_columns_are_white_where_they_are_regressed_on() -> None:
    """Each writer's own have a variance of 1 and no covariance, at all tokens and at the judged ones."""
    sums = LassoStudy("circuit-lasso", QUICK, *planted_study()).sums(silent)
    for grams in (sums.inner, sums.output):
        size = sums.size
        blocks = grams.of().gram.unflatten(0, (-1, size)).unflatten(2, (-1, size)).diagonal(0, 0, 2)
        for block in blocks.unbind(2):
            alive = block.diagonal() > 0
            torch.testing.assert_close(block, torch.diag(alive.double()), rtol=0, atol=1e-6)
            assert alive.any()


def test_one_pass_of_both_prompts_records_what_a_pass_of_each_does() -> None:
    subject, task = planted_study()
    study = LassoStudy("circuit-lasso", QUICK, subject, task)
    site = Site(1, Kind.MLP)
    (shelf,) = (shelf for shelf in study.recorder.shelves if site in shelf.spans)
    seen: list[torch.Tensor] = []
    study.recorder.sweep(lambda views: seen.append(shelf.of(views.acts)[:, shelf.spans[site]]), silent, "activations")
    clean, corrupt = (subject.record(side, [site])[1][site] for side in (study.pairs.clean, study.pairs.corrupt))
    between = (clean - corrupt).flatten(0, 1)
    torch.testing.assert_close(torch.cat(seen), between[between.flatten(1).any(1)], rtol=0, atol=1e-5)


def test_what_does_not_fit_in_memory_is_recorded_again_with_the_same_answer() -> None:
    subject, task = planted_study()
    kept, again = (replace(QUICK, batch=8, cache_gb=room).find(subject, task) for room in (1.0, 0.0))
    assert torch.equal(_edges(kept).scores, _edges(again).scores)


# -- what is refused or warned --------------------------------------------------------------------------------------


def test_a_penalty_beyond_lambda_max_gives_an_empty_circuit_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    circuit = replace(QUICK, alpha=2.0).find(*planted_study())
    assert not _edges(circuit).kept.any()
    assert "the circuit is empty: alpha 2 is beyond the largest lambda_max" in caplog.text


def test_one_penalty_keeps_what_it_keeps() -> None:
    sizes = [replace(QUICK, alpha=alpha).find(*planted_study()).sizes["edge"].kept for alpha in (0.05, 0.005)]
    assert 0 < sizes[0] < sizes[1]


def test_too_few_rows_are_warned_of_with_the_number(caplog: pytest.LogCaptureFixture) -> None:
    replace(QUICK, pairs=6, folds=2, size=0.2).find(*planted_study())
    assert "6 judged rows are few for 8 columns a part: 21 are needed" in caplog.text


def test_parts_that_do_not_vary_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        replace(QUICK, size=0.2).find(*planted_study())
    assert "6 of 11 writers do not vary" in caplog.text


def test_a_nan_is_refused_with_its_place() -> None:
    subject = planted("llama")
    weight = subject.model.get_submodule("model.layers.1.mlp.down_proj").weight
    assert isinstance(weight, torch.Tensor)
    weight.data.fill_(torch.nan)
    task = RandomTask(planted_study()[0])
    with pytest.raises(NumericalError, match=r"an activation at .* is not finite"):
        QUICK.find(subject, task)


def test_an_encoder_and_columns_beyond_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedModel, match="encoder"):
        QUICK.find(*planted_study("bert"))
    monkeypatch.setattr("subcircuit.methods._lasso_study.ROOM", 1000)
    with pytest.raises(ResourceError, match="columns take") as refusal:
        QUICK.find(*planted_study())
    assert "--channels" in refusal.value.cure


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"channels": -1}, "channels is -1"),
        ({"steps": 0}, "steps is 0"),
        ({"shrink": 1.0}, "shrink is 1.0"),
        ({"folds": 1}, "folds is 1"),
        ({"pairs": 3, "folds": 5}, "folds is 5"),
        ({"size": 0.1, "select": "cv"}, "size is 0.1 and edges are chosen by cv"),
        ({"size": 0.1, "alpha": 0.2}, "size is 0.1 and edges are chosen by alpha"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        CircuitLasso(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["select", "penalty", "rows", "targets", "sink"])
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(UnknownName, match="'nothing'"):
        CircuitLasso(**{name: "nothing"})  # type: ignore[arg-type]


# -- the words of these tests ---------------------------------------------------------------------------------------


def _edges(circuit: Circuit) -> Edges:
    assert circuit.edges is not None
    return circuit.edges
