"""`subcircuit score`: the evidence for a circuit, on prompts that nothing has looked at."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subcircuit.cli._launch import launcher_of
from subcircuit.cli._model import model_of
from subcircuit.cli._progress import shown
from subcircuit.cli._shell import Screen, stoppable, together
from subcircuit.errors import UnknownName
from subcircuit.parallel.place import started_as
from subcircuit.progress import Progress
from subcircuit.runs import RunFolder

if TYPE_CHECKING:
    from subcircuit.evaluation import BudgetCurves, Evidence, FullEvidence

__all__ = ["score"]

SPLITS = ("test", "validation", "train")
RIVALS = ("singles", "greedy", "random", "paper", "dcm", "gates")
ROWS = 8  # the circuit, the empty one, a ranking and a run for both baselines, and two for effects by token
FULL = 95  # curves, complement, 10 parts twice, first-order drops, 50 inflated circuits, attribution by prompt


def score(
    folder: Annotated[Path, typer.Argument(help="run folder", metavar="DIR")],
    pairs: Annotated[int, typer.Option(help="prompt pairs to score on", min=1)] = 200,
    controls: Annotated[int, typer.Option(help="random circuits of the same size", min=1)] = 20,
    split: Annotated[str, typer.Option(help="test, validation or train")] = "test",
    seed: Annotated[int, typer.Option(help="seed of the prompts, the random circuits and the intervals")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps, or spread over all of them")] = "auto",
    full: Annotated[
        bool, typer.Option("--full", help="also curves, completeness, minimality, tests, stability")
    ] = False,
    exact: Annotated[int, typer.Option(help="with --full: nodes removed one by one", min=0)] = 32,
    seeds: Annotated[int, typer.Option(help="with --full: circuits compared, each further one a search; 1 = none")] = 5,
    optimal: Annotated[int, typer.Option(help="with --full: steps that fit constants to closed nodes", min=0)] = 0,
    rivals: Annotated[str, typer.Option(help=f"causal tracing: also by other searches: {', '.join(RIVALS)}")] = "",
    force: Annotated[bool, typer.Option("--force", help="score although the model's weights have changed")] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress, no notes")] = False,
    **launch: Any,
) -> None:
    """Score a circuit on held-out prompts, beside its controls; writes evidence.json and tokens.json.

    The controls: the full model, the empty circuit, random circuits of the same size, and the circuits of the same size
    that attribution patching and integrated gradients would choose. tokens.json has a few prompts token by token. With
    --full, full.json holds more: faithfulness at ten sizes, the model without the circuit, the circuit without single
    nodes, tests, and other seeds' circuits. With --rivals, budgets.json has what other searches of causal tracing find
    at the same sizes, and what they take. With --launcher, the random circuits and the searches with other seeds are
    run in jobs; a score that was stopped goes on with the same command.
    """
    if split not in SPLITS:
        raise UnknownName("split", split, SPLITS)
    others = [name.strip() for name in rivals.split(",") if name.strip()]
    for name in others:
        if name not in RIVALS:
            raise UnknownName("rival", name, RIVALS)
    origin = RunFolder(folder).circuit().origin
    launcher = launcher_of(folder, device, launch)
    first = started_as() == 0  # of several processes, one writes and tells
    screen = Screen(json=json and first, quiet=quiet or not first)
    with (
        screen.logging(),
        stoppable(f"random circuits that are done stay in {launcher.folder}"),
        together(),
        shown(screen.err, quiet=screen.quiet) as progress,
    ):
        from subcircuit.circuit import Circuit
        from subcircuit.evaluation import budget_curves, evidence, full_evidence, token_effects
        from subcircuit.tasks._resolve import task as resolve

        circuit = Circuit.load(folder)
        task = resolve(origin.task, **{name: value for name, value in origin.task_options.items() if name != "path"})
        subject = model_of(origin, device, force, screen, progress)
        steps = Steps(progress, ROWS + controls + (FULL + exact + seeds + optimal // 10 if full else 0))
        on: dict[str, Any] = {"n": pairs, "split": split, "controls": controls, "seed": seed, "on_step": steps}
        on["launcher"] = launcher
        if full:
            found, more = full_evidence(subject, circuit, task, exact=exact, seeds=seeds, optimal_steps=optimal, **on)
        else:
            found, more = evidence(subject, circuit, task, **on), None
        tokens = token_effects(subject, circuit, task, found, on_step=steps)
        curves = None
        if others:
            family = [Circuit.load(each.path) for each in RunFolder(folder).members()] or [circuit]
            drawn: dict[str, Any] = {"n": pairs, "split": split, "seed": seed}
            curves = budget_curves(subject, family, task, others, **drawn, progress=progress)
        steps.finish()
    if not first:
        return
    for each in (found, more, tokens, curves):
        if each is not None:
            each.save(folder)
    _report(found, more, curves, folder, screen)


class Steps:
    """Rows of the evidence as progress."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.begun = progress, total, 0

    def __call__(self, name: str) -> None:
        self.progress("scoring", min(self.begun, self.total), self.total)
        self.begun += 1

    def finish(self) -> None:
        self.progress("scoring", self.total, self.total)


def _report(
    found: "Evidence", more: "FullEvidence | None", curves: "BudgetCurves | None", folder: Path, screen: Screen
) -> None:
    from subcircuit.cli._scored import Scored, budget_table, table
    from subcircuit.cli._scored_full import curve_table, lines

    if screen.json:
        verdict = found.verdict
        said = {"verdict": verdict, "sentence": found.reason}
        screen.emit(Scored(folder=str(folder), **said, evidence=found, full=more, budgets=curves))
        return
    screen.out.print(table(found))
    if more is not None:
        screen.out.print("\n", curve_table(more), sep="")
        for line in lines(more):
            screen.out.print(line, soft_wrap=True, markup=False)
    if curves is not None:
        screen.out.print("\n", budget_table(curves), sep="")
    sizes = ", ".join(f"{size.kept} of {size.total} {kind}" for kind, size in found.sizes.items())
    screen.out.print(f"\nkept: {sizes}", soft_wrap=True)
    screen.out.print(f"[bold]{found.verdict}[/]: {found.reason}", soft_wrap=True)
