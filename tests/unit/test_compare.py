"""Runs side by side: what is read, what is flagged, what is refused, and what the verb prints."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from commands import Ask
from edge_circuits import SMALL, circuit_of
from subcircuit.circuit import Circuit
from subcircuit.edge_tables import Edges
from subcircuit.errors import DataError, UsageError
from subcircuit.evaluation import Evidence, evidence, full_evidence
from subcircuit.evaluation.comparison import Comparison, compare
from subcircuit.sites import Kind, Site
from tiny import HEADS, NEURONS
from tiny_circuit import ORIGIN, by_hand, kept_nodes, planted_circuit
from tiny_task import planted_study


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`whole`: all that was planted, fully scored; `half`: without one head, scored."""
    folder = tmp_path_factory.mktemp("runs")
    subject, task = planted_study()
    whole = planted_circuit(subject)
    half = by_hand(kept_nodes(subject, HEADS[:1], NEURONS), method="by halves", seconds=7.0)
    found, more = full_evidence(subject, whole, task, n=16, controls=2, exact=0, seeds=1)
    for name, circuit, table in (
        ("whole", whole, found),
        ("half", half, evidence(subject, half, task, n=16, controls=2)),
    ):
        circuit.save(folder / name)
        table.save(folder / name)
    more.save(folder / "whole")
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same in the working folder, to be changed."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_rows_hold_what_the_files_hold(runs: Path) -> None:
    found = compare(["whole", "half"])
    assert found.differences == []
    whole, half = found.runs
    table = Evidence.load("whole")
    assert (whole.circuit, whole.full, whole.verdict) == (table.circuit, table.full, table.verdict)
    assert whole.random_kl == min((draw.kl for draw in table.random), key=lambda kl: kl.mean)
    assert (whole.controls, half.origin.method, half.origin.seconds) == (2, "by halves", 7.0)
    assert whole.cpr is not None and whole.items is not None and half.cpr is None
    assert half.lacks == ["half has no curves yet: subcircuit score half --full"]


def test_the_overlap_is_that_of_the_circuits(runs: Path) -> None:
    (pair,) = compare(["whole", "half"], names=True).together
    assert (pair.first, pair.second, pair.apart) == ("whole", "half", {})
    heads = pair.kinds["head"]
    assert (heads.both, heads.only_first, heads.only_second) == (len(HEADS[:1]), len(HEADS) - 1, 0)
    layer, unit = HEADS[1]
    assert heads.names is not None and f"{layer}.head.{unit}" in heads.names.only_first
    neurons = pair.kinds["neuron"]
    assert neurons.jaccard is not None and neurons.jaccard.mean == 1


def test_kl_is_compared_prompt_by_prompt(runs: Path) -> None:
    (pair,) = compare(["whole", "half"]).together
    first, second = (Evidence.load(name) for name in ("whole", "half"))
    assert pair.kl_difference is not None
    assert pair.kl_difference.mean == pytest.approx(first.circuit.kl.mean - second.circuit.kl.mean, abs=1e-4)
    assert pair.kl_difference.high < 0  # a circuit without a planted head is farther from the model


def test_every_two_runs_are_compared(runs: Path) -> None:
    shutil.copytree("half", "third")
    found = compare(["whole", "half", "third"])
    assert [(pair.first, pair.second) for pair in found.together] == [
        ("whole", "half"),
        ("whole", "third"),
        ("half", "third"),
    ]
    same = found.together[-1]
    assert same.kl_difference is not None and same.kl_difference.mean == 0
    assert all(each.jaccard is None or each.jaccard.mean == 1 for each in same.kinds.values())


@pytest.mark.parametrize(
    ("changes", "what", "values"),
    [
        ({"model": "other"}, "model", ["planted", "other"]),
        ({"revision": "f" * 8}, "revision", ["", "f" * 8]),
        ({"dtype": "bfloat16"}, "dtype", ["float32", "bfloat16"]),
        ({"task": "ioi"}, "task", ["random", "ioi"]),
        ({"task_options": {"order": "ABBA"}}, "task options", ["defaults", "order=ABBA"]),
        ({"reference": "mean"}, "reference", ["corrupt", "mean"]),
    ],
)
def test_other_origins_are_named_and_their_kl_is_not_subtracted(
    runs: Path, changes: dict[str, object], what: str, values: list[str]
) -> None:
    half = Circuit.load("half")
    half.with_origin(half.origin.model_copy(update=changes)).save("half")
    found = compare(["whole", "half"])
    assert [(each.what, each.values) for each in found.differences] == [(what, values)]
    assert found.together[0].kl_difference is None
    assert found.together[0].kinds  # circuits of one shape are sets all the same


@pytest.mark.parametrize(
    ("field", "value", "what"), [("split", "validation", "split"), ("pairs", 9, "prompt pairs"), ("seed", 3, "seed")]
)
def test_other_prompts_are_named(runs: Path, field: str, value: object, what: str) -> None:
    Evidence.load("half").model_copy(update={field: value}).save("half")
    found = compare(["whole", "half"])
    assert [each.what.startswith(what) for each in found.differences] == [True]
    assert found.together[0].kl_difference is None


def test_a_run_without_evidence_is_told_how_to_get_it(runs: Path) -> None:
    Path("half/evidence.json").unlink()
    found = compare(["whole", "half"])
    assert found.runs[1].circuit is None and found.runs[1].verdict is None
    assert found.runs[1].lacks == ["half has no evidence yet: subcircuit score half"]
    assert found.differences == []  # nothing was measured otherwise: it was not measured
    assert found.together[0].kinds["head"].both == 1


def test_curves_of_other_prompts_than_the_table_are_not_shown(runs: Path) -> None:
    Evidence.load("whole").model_copy(update={"seed": 5}).save("whole")
    whole = compare(["whole", "half"]).runs[0]
    assert whole.cpr is None and "subcircuit score whole --full" in whole.lacks[0]


def test_evidence_of_another_circuit_is_refused(runs: Path) -> None:
    shutil.copy("whole/evidence.json", "half/evidence.json")
    with pytest.raises(DataError, match="of another circuit") as caught:
        compare(["whole", "half"])
    assert caught.value.cure == "run: subcircuit score half"


def test_models_of_other_shapes_and_too_few_runs_are_refused(runs: Path) -> None:
    sites = [Site(layer, Kind.HEAD) for layer in range(5)]
    scores = {site: torch.ones(3) for site in sites}
    Circuit(scores, {site: score.bool() for site, score in scores.items()}, ORIGIN).save("deep")
    with pytest.raises(DataError, match=r"different shapes: planted has .*; planted has 5 layers, 3 head each"):
        compare(["half", "deep"])
    for given, told in ((["half"], "1 run to compare"), (["half", "../" + runs.name + "/half"], "given twice")):
        with pytest.raises(UsageError, match=told):
            compare(given)


def test_the_verb_prints_a_column_per_run_and_a_row_per_kind(runs: Path, ask: Ask) -> None:
    answer = ask("compare", "whole", "half", "--nodes")
    assert answer.code == 0, answer.err
    lines = {line.split("  ")[0].strip(): line for line in answer.out.splitlines()}
    kl = Evidence.load("half").circuit.kl
    assert f"{kl.mean:.2f} [{kl.low:.2f}, {kl.high:.2f}]" in lines["KL (nats)"]
    assert "full model" in answer.out and "by halves" in lines["method"] and "CPR" in lines
    assert "not measured alike" not in answer.out
    assert "half has no curves yet: subcircuit score half --full" in answer.out
    layer, unit = HEADS[1]
    assert f"1, 2 head, only 1st: {layer}.head.{unit}" in answer.out
    assert "KL of the first minus KL of the second -" in answer.out


def test_json_is_the_comparison(runs: Path, ask: Ask) -> None:
    answer = ask("compare", "whole", "half", "--json", "--resamples", 50)
    assert answer.code == 0
    assert Comparison.model_validate(answer.json) == compare(["whole", "half"], draws=50)


def test_what_differs_stands_above_the_table(runs: Path, ask: Ask) -> None:
    half = Circuit.load("half")
    half.with_origin(half.origin.model_copy(update={"task": "ioi"})).save("half")
    out = ask("compare", "whole", "half").out
    assert out.startswith("not measured alike: task: 1 random, 2 ioi")
    assert "full model" not in out


def test_edges_stand_beside_nodes(runs: Path, ask: Ask) -> None:
    kept = SMALL.allowed.clone()
    kept[0] = False
    for name, truth in (("all", SMALL.allowed), ("fewer", kept)):
        circuit_of(Edges(SMALL, torch.rand(truth.shape) * SMALL.allowed, truth)).save(name)
    found = ask("compare", "all", "fewer", "--json").json
    assert {"head", "mlp", "edge"} == set(found["together"][0]["kinds"])
    assert found["together"][0]["kinds"]["edge"]["only_second"] == 0
    (row,) = (line for line in ask("compare", "all", "fewer").out.splitlines() if line.startswith("edge kept"))
    total = int(SMALL.allowed.sum())
    assert f"{total} of {total} (100.0%)" in row
    assert "all has no evidence yet: subcircuit score all" in ask("compare", "all", "fewer").out


def test_kinds_of_one_run_only_are_told_with_the_run_that_has_none(runs: Path, ask: Ask) -> None:
    circuit_of(Edges(SMALL, SMALL.allowed.float(), SMALL.allowed)).save("edges")
    site = Site(0, Kind.HEAD)
    Circuit({site: torch.ones(2)}, {site: torch.ones(2).bool()}, ORIGIN).save("heads")
    for first, second in (("edges", "heads"), ("heads", "edges")):
        (pair,) = compare([first, second]).together
        assert list(pair.kinds) == ["head"]
        assert pair.apart == {"edge": "heads", "mlp": "heads"}
    assert "1, 2: none in heads: edge, mlp" in ask("compare", "edges", "heads").out


@pytest.mark.parametrize(
    ("folders", "code", "told"),
    [
        (["whole"], 2, "comparing takes two"),
        (["whole", "nowhere"], 3, "circuit.json is missing"),
        (["whole", "whole"], 2, "given twice"),
        ([], 2, "Missing argument"),
    ],
)
def test_wrong_use(runs: Path, ask: Ask, folders: list[str], code: int, told: str) -> None:
    answer = ask("compare", *folders)
    assert answer.code == code and told in answer.err


def test_broken_files_are_named(runs: Path, ask: Ask) -> None:
    Path("half/evidence.json").write_text(json.dumps({"split": "test"}))
    answer = ask("compare", "whole", "half", "--json")
    assert answer.code == 3 and "evidence.json is not an evidence file" in answer.json["error"]["message"]


@pytest.mark.parametrize("arguments", [["--help"], ["nowhere", "elsewhere"], ["nowhere"]])
def test_help_and_refusals_import_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from subcircuit.cli import main\n"
        "try: main()\n"
        "finally: sys.stderr.write(f'heavy: {\"torch\" in sys.modules}')"
    )
    done = subprocess.run([sys.executable, "-c", code, "compare", *arguments], capture_output=True, text=True)
    assert done.stderr.endswith("heavy: False")
