"""`subcircuit find hierarchy`: a circuit of features into a folder, with its evidence."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from subcircuit.cli._options import task_options
from subcircuit.cli._progress import shown
from subcircuit.cli._shell import Screen, stoppable
from subcircuit.errors import BudgetNotMet, UsageError

if TYPE_CHECKING:
    from subcircuit.graphs.ordering import Ordering
    from subcircuit.graphs.study import FeatureCircuit
    from subcircuit.scores import Scores

__all__ = ["hierarchy"]

FILE = "features.json"


def hierarchy(
    model: Annotated[str, typer.Option(help="built-in name (list models), folder, .gguf file or hub id")],
    task: Annotated[str, typer.Option(help="task (list tasks), or a .jsonl or .csv file of your own prompts")],
    transcoders: Annotated[Path, typer.Option(help="folder of circuit-tracer: transcoders of all layers")],
    out: Annotated[Path, typer.Option(help="folder to write")],
    task_option: Annotated[list[str] | None, typer.Option(help="name=value; may be repeated", metavar="K=V")] = None,
    goal: Annotated[float, typer.Option(help="share of the behaviour to keep on validation prompts")] = 0.9,
    measure: Annotated[str, typer.Option(help="exact-match, or faithfulness of the logit difference")] = "exact-match",
    ablation: Annotated[str, typer.Option(help="counterfactual, mean or zero")] = "counterfactual",
    pairs: Annotated[int, typer.Option(help="train prompts whose graphs are made")] = 32,
    validation: Annotated[int, typer.Option(help="prompts of the search")] = 128,
    test: Annotated[int, typer.Option(help="prompts of the evidence")] = 128,
    by_position: Annotated[bool, typer.Option("--by-position/--any-position", help="tell positions apart")] = True,
    factor: Annotated[int, typer.Option(help="by which each level has fewer groups")] = 4,
    order: Annotated[str, typer.Option(help="influence, or gnn where a graph network beats it")] = "influence",
    tests: Annotated[int | None, typer.Option(help="runs with features off [default: a tenth of candidates]")] = None,
    max_features: Annotated[int, typer.Option(help="nodes of a prompt's graph")] = 2000,
    skip: Annotated[int, typer.Option(help="tokens at the start whose features are left to the errors")] = 1,
    greedy: Annotated[bool, typer.Option("--greedy", help="also search feature by feature, as a control")] = False,
    seed: Annotated[int, typer.Option(help="of prompts and random controls", min=0)] = 0,
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit of a hub id")] = None,
    dtype: Annotated[str, typer.Option(help="of the weights: float32, bfloat16 or float16")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the circuit in the folder")] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress, no notes")] = False,
) -> None:
    """Find the features of transcoders that a task needs, from coarse groups to single ones; test them beside controls.

    Exit code 7 where the goal is out of reach even with all features that the train prompts turn on.
    """
    options = task_options(task, task_option or [], False)
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (overwrite and (out / FILE).is_file()))):
        raise UsageError(f"{out} is not empty", "--overwrite replaces the circuit in it, or give another folder")
    screen = Screen(json=json, quiet=quiet)
    with screen.logging(), stoppable(), shown(screen.err, quiet=quiet) as progress:
        from subcircuit.features.transcoders import read_transcoders
        from subcircuit.graphs.study import FeatureStudy
        from subcircuit.loading import load
        from subcircuit.tasks._resolve import task as resolve

        study = FeatureStudy(
            goal=goal,
            measure=measure,
            ablation=ablation,
            pairs=pairs,
            validation=validation,
            test=test,
            by_position=by_position,
            factor=factor,
            order=order,
            tests=tests,
            max_features=max_features,
            skip=skip,
            greedy=greedy,
            seed=seed,
        )
        dictionaries, asked = read_transcoders(transcoders), resolve(task, **options)
        screen.silence_transformers()
        subject = load(model, revision=revision, dtype=dtype, device=device, progress=progress)
        found = study.find(subject, dictionaries, asked, progress=progress)
        found.save(out)
    if json:
        screen.emit(found)
    else:
        _report(found, out, screen)
    if found.value < found.goal:
        missed = BudgetNotMet(
            f"all {found.candidates} features together keep {found.value:.3f} of the behaviour, not {found.goal:g}",
            "lower --goal, give more --pairs, or take transcoders that explain more",
        )
        screen.complain(missed)
        raise typer.Exit(missed.exit_code)


def _report(found: "FeatureCircuit", out: Path, screen: Screen) -> None:
    told = found.evidence
    screen.out.print(
        f"{len(found.features)} of {told.candidates} features in {len(found.groups)} groups, by {found.tests} tests; "
        f"levels of {', '.join(map(str, found.levels))}",
        soft_wrap=True,
    )
    if found.order is not None:
        screen.out.print(_told(found.order), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for column in ("on", "features", "exact match", "KL", "logit difference"):
        table.add_column(column, justify="left" if column == "on" else "right")
    table.add_row("the circuit only", str(told.circuit.features), *_cells(told.circuit.sufficiency))
    for name, row in told.controls.items():
        table.add_row(name, str(row.features), *_cells(row.sufficiency))
    size, mean, best = str(told.circuit.features), sum(told.random) / len(told.random), max(told.random)
    table.add_row(
        f"random, {len(told.random)} draws", size, f"{mean:.3f}, best {best:.3f}", f"{min(told.random_kl):.3g}", ""
    )
    table.add_row("none", "0", *_cells(told.empty))
    table.add_row("all but the circuit", "", *_cells(told.circuit.necessity))
    screen.out.print(table)
    screen.out.print(f"{told.prompts} test prompts, ablation {told.ablation}; {escape(str(out))}", soft_wrap=True)


def _told(order: "Ordering") -> str:
    each = (
        f"{name} AUROC {trial.ranking.auroc or 0:.3f}, AP {trial.ranking.auprc or 0:.3f}, {trial.features} features by "
        f"{trial.tests} tests"
        for name, trial in (("influence", order.influence), ("gnn", order.gnn))
    )
    return f"order: {order.taken}; on {order.prompts} held-out prompts {'; '.join(each)}"


def _cells(scores: "Scores") -> list[str]:
    match = scores.exact_match
    return [
        f"{match.mean:.3f} [{match.low:.3f}, {match.high:.3f}]",
        f"{scores.kl.mean:.3g}",
        f"{scores.logit_difference.mean:.3g}",
    ]
