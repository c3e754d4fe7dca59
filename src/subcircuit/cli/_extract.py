"""`subcircuit extract`: a circuit as a smaller model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.markup import escape
from rich.table import Table

from subcircuit.cli._model import model_of
from subcircuit.cli._progress import shown
from subcircuit.cli._shell import Screen, stoppable
from subcircuit.runs import RunFolder

if TYPE_CHECKING:
    from subcircuit.extraction import Extraction, Form, Static

__all__ = ["extract"]


def extract(
    folder: Annotated[Path, typer.Argument(help="run folder of a node circuit", metavar="DIR")],
    out: Annotated[Path, typer.Option(help="folder to write the model to")],
    form: Annotated[str, typer.Option(help="compact: layers of different sizes; dense: the stock architecture")] = (
        "compact"
    ),
    reference: Annotated[
        str | None, typer.Option(help="what stands for what is gone: mean or zero [default: the circuit's, or mean]")
    ] = None,
    bound: Annotated[
        float | None, typer.Option(help="largest KL under that reference, in nats; beyond it nothing is written", min=0)
    ] = None,
    pairs: Annotated[int, typer.Option(help="prompt pairs of each split to score on", min=1)] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="go on although the model's weights have changed")] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress, no notes")] = False,
) -> None:
    """Take a circuit out of its model: a Hugging Face folder without the weights of what is off.

    Means of what is off go into biases, so that the model equals the ablated circuit. The form `compact` loads with
    `trust_remote_code=True`, or with subcircuit; `dense` loads anywhere, where its architecture has the biases.
    """
    origin = RunFolder(folder).circuit().origin
    screen = Screen(json=json, quiet=quiet)
    with screen.logging(), stoppable(), shown(screen.err, quiet=quiet) as progress:
        from subcircuit.circuit import Circuit
        from subcircuit.evaluation import Evidence
        from subcircuit.extraction import extract as take_out
        from subcircuit.tasks._resolve import task as resolve

        circuit = Circuit.load(folder)
        task = resolve(origin.task, **{name: value for name, value in origin.task_options.items() if name != "path"})
        evidence = Evidence.load(folder) if (folder / "evidence.json").is_file() else None
        found = take_out(
            model_of(origin, device, force, screen, progress),
            circuit,
            task,
            out,
            form=cast("Form", form),
            reference=cast("Static | None", reference),
            bound=bound,
            n=pairs,
            evidence=evidence,
            progress=progress,
        )
    if json:
        screen.emit(found)
        return
    _report(found, out, screen)


def _report(found: "Extraction", out: Path, screen: Screen) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("", "whole model", "extracted", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    before, after = found.before, found.after
    rows = {
        "parameters": (before.parameters, after.parameters),
        "bytes": (before.bytes, after.bytes),
        "FLOPs per token": (before.flops, after.flops),
        "tokens per second": (before.tokens_per_second, after.tokens_per_second),
        "ms per further token": (before.latency_ms, after.latency_ms),
    }
    for name, (whole, smaller) in rows.items():
        table.add_row(name, f"{whole:,.6g}", f"{smaller:,.6g}", f"{smaller / whole:.3g}")
    screen.out.print(table)
    kl, test = found.rescored.kl, found.test
    screen.out.print(
        f"\nunder {found.reference} the circuit has KL {kl.mean:.3g} [{kl.low:.3g}, {kl.high:.3g}] on validation "
        f"pairs; the extracted model {test.kl.mean:.3g} on test pairs, accuracy {test.accuracy.mean:.3g}",
        soft_wrap=True,
    )
    screen.out.print(f"no logit differs from the ablated circuit's by more than {found.difference:.2g}")
    screen.out.print(f"{escape(str(out))} ({found.form})", soft_wrap=True)
