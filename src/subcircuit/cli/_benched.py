"""The benchmark for people: a table of cases by methods for each thing ranked; and what `bench --json` prints."""

from collections.abc import Callable, Iterable, Sequence

from pydantic import BaseModel, ConfigDict, Field
from rich.table import Table

from subcircuit.ground_truth.bench import Result
from subcircuit.ground_truth.ranking import Ranked

__all__ = ["Benched", "notes", "tables"]

NONE = "-"
WHAT: dict[str, Callable[[Result], Ranked | None]] = {
    "heads and MLPs": lambda result: result.nodes,
    "neurons": lambda result: result.kinds.get("neuron"),
    "edges that carry tokens": lambda result: result.edges,
    "all edges that carry something": lambda result: result.every_edge,
}


class Benched(BaseModel):
    """`subcircuit bench ground-truth`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int
    results: list[Result] = Field(description="case by case, in each of them method by method")


def tables(results: Sequence[Result]) -> Iterable[Table]:
    """One for each thing that any method ranked, with the methods that did."""
    cases = dict.fromkeys(result.case for result in results)
    for what, read in WHAT.items():
        found = {(result.case, result.method): read(result) for result in results}
        methods = dict.fromkeys(method for (_, method), part in found.items() if part is not None)
        if not methods:
            continue
        table = Table(
            box=None, pad_edge=False, title=f"{what}: AUROC / AUPRC", title_style="bold", title_justify="left"
        )
        table.add_column("")
        for method in methods:
            table.add_column(method.replace("-", "\n"), justify="right")
        for case in cases:
            cells = [_cell(found.get((case, method))) for method in methods]
            if any(cell != NONE for cell in cells):
                table.add_row(case, *cells)
        table.add_section()
        yield table


def notes(results: Sequence[Result]) -> Iterable[str]:
    """What a reader of the tables has to know."""
    for result in results:
        if result.refused:
            yield f"{result.method} did not run on {result.case}: {result.refused}"
    yield f"{NONE}: no scores, or nothing that is not part of the circuit"


def _cell(part: Ranked | None) -> str:
    if part is None or part.auroc is None or part.auprc is None:
        return NONE
    return f"{part.auroc:.2f} / {part.auprc:.2f}"
