"""`subcircuit check`: the prompt doctor, for a prompts file and the tokenizer that will read it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from subcircuit.cli._outputs import Checked, Finding
from subcircuit.cli._progress import shown
from subcircuit.cli._shell import Screen, stoppable
from subcircuit.errors import DataError

if TYPE_CHECKING:
    from subcircuit.tasks._report import Report

__all__ = ["check"]


def check(
    file: Annotated[Path, typer.Argument(help="prompts: a .jsonl or .csv file, or FORMAT:FILE", metavar="FILE")],
    model: Annotated[str, typer.Option(help="whose tokenizer reads them: built-in name, folder, .gguf or hub id")],
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit of a hub id")] = None,
    drop_bad: Annotated[bool, typer.Option("--drop-bad", help="bad rows are no failure: they will be dropped")] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """The prompt doctor: does every row of a prompts file line up, token by token, for this model?

    Every finding names the row, shows the tokens and says what to do. Exit code 3 when a row cannot be used.
    """
    from subcircuit.loading import load_tokenizer
    from subcircuit.tasks._base import SPLITS
    from subcircuit.tasks._file import FileTask

    screen = Screen(json=json)
    task = FileTask(str(file))  # a file that is not there is told before anything is fetched
    with stoppable(), shown(screen.err, quiet=json) as progress:
        report = task.examine(load_tokenizer(model, revision=revision, progress=progress))
    output = Checked(
        file=str(file),
        model=model,
        read=report.read,
        kept=report.kept,
        dropped=report.dropped,
        splits={split: sum(row.row.split == split for row in report.rows) for split in SPLITS},
        findings=_findings(report),
    )
    if json:
        screen.emit(output)
    else:
        _print(screen, report, output)
    if report.dropped and not drop_bad:
        raise typer.Exit(DataError.exit_code)


def _findings(report: "Report") -> list[Finding]:
    return [
        Finding(
            row=each.row,
            level=each.level,
            code=each.code,
            cause=each.cause,
            cure=each.cure,
            clean_tokens=list(each.clean_tokens),
            corrupt_tokens=list(each.corrupt_tokens),
        )
        for each in report.findings
    ]


def _print(screen: Screen, report: "Report", output: Checked) -> None:
    for finding in report.findings:
        colour = "red" if finding.level == "error" else "yellow"
        screen.out.print(f"[{colour}]{finding.level}[/] {escape(str(finding))}\n", soft_wrap=True)
    splits = ", ".join(f"{name} {count}" for name, count in output.splits.items())
    screen.out.print(
        f"kept {output.kept} + dropped {output.dropped} = read {output.read} rows of {escape(output.file)} ({splits})",
        soft_wrap=True,
    )
