"""`subcircuit distill`: an extracted model taught by the model it was cut from."""

import os
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from rich.markup import escape

from subcircuit.cli._outputs import Distilled
from subcircuit.cli._progress import shown
from subcircuit.cli._shell import Screen, stoppable
from subcircuit.errors import Interrupted

__all__ = ["distill"]


def distill(
    student: Annotated[Path, typer.Option(help="folder of the model that learns; it stays as it is")],
    teacher: Annotated[str, typer.Option(help="built-in name, folder, .gguf or hub id")],
    prompts: Annotated[Path, typer.Option(help=".jsonl with the field prompt, or a text file with one a line")],
    out: Annotated[Path, typer.Option(help="folder to write")],
    option: Annotated[
        list[str] | None, typer.Option("--set", help="a setting: name=value; may be repeated", metavar="K=V")
    ] = None,
    steps: Annotated[int, typer.Option(help="batches of prompts", min=1)] = 100,
    lr: Annotated[float, typer.Option(help="learning rate at the start", min=0)] = 1e-4,
    tau: Annotated[float, typer.Option(help="teacher entropy above which forward KL joins, nats")] = 0.8,
    on_policy: Annotated[float, typer.Option(help="share of batches that the student writes")] = 1.0,
    objective: Annotated[str, typer.Option(help="eopd, forward-kl, jsd or supervised")] = "eopd",
    seed: Annotated[int, typer.Option(help="of prompts' order and of all that is written", min=0)] = 0,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in the folder")] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress, no notes")] = False,
) -> None:
    """Teach a model on its own outputs: it writes, the teacher judges every token; forward KL where that is unsure.

    The objectives besides eopd are baselines; supervised needs --on-policy 0. The other settings of the loss and
    the run are given by --set: gate, target, reverse, norm, lag1, alpha, top_k, clip, batch, micro, new_tokens, ...
    """
    first = int(os.environ.get("RANK", "0")) == 0  # of several processes, one tells
    screen = Screen(json=json and first, quiet=quiet or not first)
    with screen.logging(), stoppable(), shown(screen.err, quiet=quiet) as progress:
        from subcircuit.distillation import Distillation, Loss, read_prompts
        from subcircuit.loading import load
        from subcircuit.parallel.group import own_device

        given: dict[str, Any] = {
            "steps": steps,
            "lr": lr,
            "tau": tau,
            "on_policy": on_policy,
            "objective": objective,
            "seed": seed,
        }
        values = given | dict(_setting(text, (Loss, Distillation)) for text in option or [])
        own = {each.name for each in fields(Loss)}
        loss = Loss(**{name: value for name, value in values.items() if name in own})
        run = Distillation(loss=loss, **{name: value for name, value in values.items() if name not in own})
        screen.silence_transformers()
        own_device()
        pupil = load(student, dtype=dtype, device=device, progress=progress)
        master = load(teacher, dtype=dtype, device=device, progress=progress)
        room = int(pupil.model.config.max_position_embeddings) - run.new_tokens
        texts = read_prompts(prompts, pupil.tokenizer, room)
        try:
            found = run.distil(pupil, master, texts, out, resume=resume, progress=progress)
        except KeyboardInterrupt as stop:
            raise _stopped(out) from stop
    if not first:
        return
    begin, end = found.history[0], found.history[-1]
    if json:
        screen.emit(Distilled(folder=str(out), settings=found.settings, tokens=found.tokens, first=begin, last=end))
        return
    screen.out.print(
        f"{found.tokens} tokens in {len(found.history)} updates: KL(teacher || student) on what was written "
        f"{begin['forward KL']:.3g} -> {end['forward KL']:.3g} nats",
        soft_wrap=True,
    )
    screen.out.print(escape(str(out)), soft_wrap=True)


def _stopped(out: Path) -> Interrupted:
    from subcircuit.distillation import STATE

    if (out / STATE).is_file():
        return Interrupted("stopped; the last checkpoint is kept", "the same command with --resume goes on")
    return Interrupted("stopped before the first checkpoint: nothing was written", "start again as before")


def _setting(text: str, classes: tuple[type[Any], ...]) -> tuple[str, Any]:
    """`k=v` as a value of the field's type. Raises UsageError or UnknownName."""
    from subcircuit.errors import UnknownName, UsageError

    spelled, equals, value = text.partition("=")
    name = spelled.strip().replace("-", "_")
    known = {field.name: owner for owner in classes for field in fields(owner) if field.default is not MISSING}
    known.pop("loss", None)
    if not equals:
        raise UsageError(f"the setting '{text}' has no value", "write --set name=value")
    if name not in known:
        raise UnknownName("setting", name, known)
    kind = get_type_hints(known[name])[name]
    kind = str if get_args(kind) else kind
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise UnknownName(f"value of {name}", value, ["true", "false"])
        return name, value.lower() == "true"
    try:
        return name, kind(value)
    except ValueError as error:
        raise UsageError(f"setting {name} is '{value}'", f"give a value of type {kind.__name__}") from error
