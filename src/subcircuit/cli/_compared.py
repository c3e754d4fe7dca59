"""A comparison for people: a column per run, a row per two runs and kind."""

from collections.abc import Callable, Iterator

from rich.markup import escape
from rich.table import Table

from subcircuit.circuit import EDGE
from subcircuit.cli._shell import Screen
from subcircuit.evaluation.comparison import Comparison, Row, Together
from subcircuit.evaluation.overlap import Names
from subcircuit.records import Size
from subcircuit.scores import Estimate, Scores
from subcircuit.sites import Kind

__all__ = ["report"]

NONE = "-"


def report(found: Comparison, screen: Screen) -> None:
    """Print all of it."""
    for each in found.differences:
        told = ", ".join(f"{place} {value}" for place, value in enumerate(each.values, 1))
        screen.out.print(f"[bold yellow]not measured alike[/]: {each.what}: {escape(told)}", soft_wrap=True)
    screen.out.print(evidence_table(found))
    for line in (line for row in found.runs for line in row.lacks):
        screen.out.print(escape(line), style="dim", soft_wrap=True)
    screen.out.print()
    screen.out.print(overlap_table(found))
    for line in lines(found):
        screen.out.print(escape(line), soft_wrap=True)


def evidence_table(found: Comparison) -> Table:
    """A column per run, and one for the full model where all runs were measured alike."""
    full = next((row.full for row in found.runs if row.full is not None), None) if not found.differences else None
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    if full is not None:
        table.add_column("full model", justify="right")
    for place, row in enumerate(found.runs, 1):
        table.add_column(f"{place} {escape(row.folder)}", justify="right", overflow="fold")
    for name, cell in _rows(found):
        cells = [cell(row) for row in found.runs]
        if any(each != NONE for each in cells):
            own = [_cell(SCORES[name](full)) if name in SCORES else ""] if full is not None else []
            table.add_row(name, *own, *cells)
    return table


def overlap_table(found: Comparison) -> Table:
    """A row per two runs and kind."""
    table = Table(box=None, pad_edge=False, title="two circuits at a time", title_style="dim")
    for column in ("runs", "kind"):
        table.add_column(column)
    for column in ("only 1st", "only 2nd", "both", "of", "Jaccard", "by chance", "Spearman", "of magnitudes"):
        table.add_column(column, justify="right")
    for pair in found.together:
        name = _pair(found, pair)
        for kind, each in pair.kinds.items():
            counts = (each.only_first, each.only_second, each.both, each.total)
            numbers = (each.by_chance, each.spearman, each.spearman_magnitude)
            table.add_row(name, kind, *map(str, counts), _cell(each.jaccard), *map(_number, numbers))
            name = ""
        if not pair.kinds:
            table.add_row(name, "none in common")
    return table


def lines(found: Comparison) -> Iterator[str]:
    """What stands in no table: paired differences of KL, kinds that only one circuit has, names."""
    for pair in found.together:
        name = _pair(found, pair)
        if pair.kl_difference is not None:
            yield f"{name}: KL of the first minus KL of the second {_cell(pair.kl_difference)}, on the same prompts"
        for folder in dict.fromkeys(pair.apart.values()):
            yield f"{name}: none in {folder}: {', '.join(kind for kind, who in pair.apart.items() if who == folder)}"
        for kind, each in pair.kinds.items():
            if each.names is not None:
                yield from _named(f"{name} {kind}", each.names)


SCORES: dict[str, Callable[[Scores], Estimate | None]] = {
    "KL (nats)": lambda scores: scores.kl,
    "faithfulness": lambda scores: scores.faithfulness,
    "logit difference": lambda scores: scores.logit_difference,
    "accuracy": lambda scores: scores.accuracy,
    "exact match": lambda scores: scores.exact_match,
}


def _rows(found: Comparison) -> Iterator[tuple[str, Callable[[Row], str]]]:
    """Names and cells; a row in which no run has anything is left out by the table."""
    yield "method", lambda row: escape(row.origin.method)
    for name, part in SCORES.items():
        yield name, lambda row, part=part: _cell(part(row.circuit)) if row.circuit else NONE  # type: ignore[misc]
    yield (
        "KL of random circuits",
        lambda row: f"best of {row.controls}: {row.random_kl.mean:.2f}" if row.random_kl else NONE,
    )
    yield "CPR", lambda row: _cell(row.cpr)
    yield "CMD", lambda row: _cell(row.cmd)
    yield "ranked for them", lambda row: row.items or NONE
    for kind in (*map(str, Kind), EDGE):
        yield f"{kind} kept", lambda row, kind=kind: _size(row.sizes.get(kind))  # type: ignore[misc]
    yield "verdict", lambda row: row.verdict or "not scored"
    yield "seconds", lambda row: f"{row.origin.seconds:.0f}"


def _named(what: str, names: Names) -> Iterator[str]:
    for where, found in (("only 1st", names.only_first), ("only 2nd", names.only_second), ("both", names.both)):
        if found:
            yield f"{what}, {where}: {' '.join(found)}"


def _pair(found: Comparison, pair: Together) -> str:
    places = [row.folder for row in found.runs]
    return f"{1 + places.index(pair.first)}, {1 + places.index(pair.second)}"


def _size(size: Size | None) -> str:
    return NONE if size is None else f"{size.kept} of {size.total} ({size.fraction:.1%})"


def _cell(estimate: Estimate | None) -> str:
    return NONE if estimate is None else f"{estimate.mean:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"
