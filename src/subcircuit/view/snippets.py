"""A question as Python: lines that load the same model, make the same changes and print the same numbers."""

from collections.abc import Iterator
from dataclasses import dataclass
from pprint import pformat
from typing import Any

from subcircuit.records import Origin
from subcircuit.view.questions import Change, Question

__all__ = ["MEANS", "Study", "python"]

MEANS = {"n": 32, "batch": 8}  # prompts of the train split that means are taken over, and how many at a time


@dataclass(frozen=True)
class Study:
    """Where the model and the circuit come from."""

    folder: str
    origin: Origin
    device: str
    start_fill: str = "corrupt"  # what fills a node outside the circuit


HEAD = """\
# {summary}
import torch

from subcircuit import {names}
from subcircuit.intervention import Reference, acting, masking
from subcircuit.metrics import kl, logit_difference
from subcircuit.prompts import Prompts

subject = load({model})


def prompt(text: str) -> Prompts:
    ids = torch.tensor([subject.tokenizer(text).input_ids])
    return Prompts(ids, torch.ones_like(ids, dtype=torch.bool), torch.tensor([{at}]))


def filled(fill, mask, donor, **options):
    return Reference(subject, fill, clean, donor, acting(mask), **options)(torch.tensor([0]))


clean = prompt({clean!r})
"""
GATES = """\
mask_{number} = {{site: torch.ones(1, {length}, subject.units(site.kind)) for site in map(Site.parse, {sites})}}
for node in map(Node.parse, {nodes}):
    mask_{number}[node.site][:, {where}, node.unit] = {amount!r}
reference_{number} = {reference}
"""
END = """\
print("KL from the untouched model:", float(kl(full, logits)))
for token in logits[0].topk({top}).indices.tolist():
    print(repr(subject.tokenizer.decode([token])), float(logits[0, token]))
"""


def python(question: Question, study: Study, at: int, length: int, answers: tuple[list[int], list[int]]) -> str:
    """Code for a question about a prompt of `length` tokens that is judged at `at`; `answers` are token ids.

    It leaves `full` and `logits`, the judged logits without and with the changes, and `difference`.
    """
    changes = [change for change in question.changes if change.nodes]
    lines = [_head(question, study, at, bool(changes))]
    lines += [f"corrupt = prompt({question.corrupt!r})\n"] if _uses(question, study, "corrupt") else []
    lines += [f"other = prompt({question.other!r})\n"] if _uses(question, study, "prompt") else []
    lines += [_source(study)] if _uses(question, study, "mean") else []
    if question.start == "circuit":
        fill = _reference(study.start_fill, "mask_0")
        lines.append(f"mask_0 = Circuit.load({study.folder!r}).mask()\nreference_0 = {fill}\n")
    lines += [_gates(number, change, question.positions, length) for number, change in enumerate(changes, 1)]
    lines += [*_run(question.start == "circuit", len(changes)), END.format(top=question.top)]
    if all(answers):
        right, wrong = (f"torch.tensor([{_wrapped(ids)}])" for ids in answers)
        lines.append(f"difference = logit_difference(logits, {right}, {wrong})\n")
        lines.append('print("logit difference:", float(difference))\n')
    return "".join(lines)


def _head(question: Question, study: Study, at: int, changed: bool) -> str:
    names = [*(["Circuit"] if question.start == "circuit" else []), *(["Node", "Site"] if changed else []), "load"]
    if _uses(question, study, "mean"):
        names.append("task")
    origin = study.origin
    model = [repr(origin.model), f"dtype={origin.dtype!r}", f"device={study.device!r}"]
    if origin.revision and not origin.revision.startswith("sha256:"):
        model.insert(1, f"revision={origin.revision!r}")
    summary = " ".join(question.summary.split())
    return HEAD.format(summary=summary, names=", ".join(names), model=", ".join(model), at=at, clean=question.clean)


def _uses(question: Question, study: Study, fill: str) -> bool:
    fills = {change.fill for change in question.changes if change.nodes}
    return fill in fills or (question.start == "circuit" and study.start_fill == fill)


def _source(study: Study) -> str:
    options: dict[str, Any] = {name: value for name, value in study.origin.task_options.items() if name != "path"}
    words = ", ".join([repr(study.origin.task), *(f"{name}={value!r}" for name, value in options.items())])
    return f'source = task({words}).pairs(subject.tokenizer, {MEANS["n"]}, seed=0, split="train").clean\n'


def _gates(number: int, change: Change, positions: list[int] | None, length: int) -> str:
    nodes = list(dict.fromkeys(change.nodes))
    sites = list(dict.fromkeys(_site(name) for name in nodes))
    where = ":" if positions is None else repr(sorted(set(positions)))
    return GATES.format(
        number=number,
        length=length,
        sites=_wrapped(sites),
        nodes=_wrapped(nodes),
        where=where,
        amount=change.amount,
        reference=_reference(change.fill, f"mask_{number}"),
    )


def _site(name: str) -> str:
    return ".".join(name.split(".")[:2])


def _reference(fill: str, mask: str) -> str:
    if fill == "mean":
        return f'filled("mean", {mask}, clean, source=source, batch_size={MEANS["batch"]})'
    donor = {"zero": "clean", "corrupt": "corrupt", "prompt": "other"}[fill]
    return f'filled("{"zero" if fill == "zero" else "corrupt"}", {mask}, {donor})'


def _run(circuit: bool, changes: int) -> Iterator[str]:
    """The pass without and the one with the changes, these in their order."""
    yield "with torch.no_grad():\n    full = subject.logits(clean)\n"
    numbers = [*([0] if circuit else []), *range(1, changes + 1)]
    indent = "    "
    for number in numbers:
        yield f"{indent}with masking(subject, mask_{number}, reference_{number}):\n"
        indent += "    "
    yield f"{indent}logits = subject.logits(clean)\n"


def _wrapped(values: list[Any]) -> str:
    return pformat(values, width=110, compact=True)
