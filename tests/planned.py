"""Runs a method on a random model of some size and prints what it took: `python planned.py METHOD FAMILY JSON`.

The JSON has the model's sizes ("model"), the method's settings ("settings") and the tokens of a prompt ("length").
"""

import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from subcircuit import plugins
from subcircuit.ground_truth.planted import RandomTask
from subcircuit.ground_truth.tiny import tiny, word_tokenizer
from subcircuit.planning.estimate import Estimate, estimate, work_of
from subcircuit.planning.machine import Machine
from subcircuit.planning.pace import measured
from subcircuit.planning.shape import Shape
from subcircuit.planning.work import Load
from subcircuit.subject import Subject

__all__ = ["plan", "random"]


def random(family: str, **sizes: Any) -> Subject:
    """A model with weights of an ordinary start: in wide models those of `tiny` overflow."""
    subject = tiny(family, **sizes)
    with torch.no_grad():
        for weight in subject.model.parameters():
            if weight.dim() > 1:
                weight.mul_(0.1)
    return Subject(subject.model, word_tokenizer(["a", "b"]), name=subject.name)


def plan(subject: Subject, method: str, settings: dict[str, Any], length: int, *, step: bool = False) -> Estimate:
    """Of the method on random prompts; with a measured `step`."""
    own = plugins.load("methods", method)(**settings)
    work = work_of(method, own, Shape.of(subject), Load(own.pairs, own.validation, length, float(length)))
    pace = None
    if step:
        pairs, edges = RandomTask(subject, length).pairs(None, own.batch), "edge" in method  # type: ignore[arg-type]
        pace = measured(subject, pairs, subject.sites(*work.gated), own.batch, edges=edges)
    return estimate(method, work, Machine("cpu", 1e12, 1, 1e12), pace=pace)


def main(method: str, family: str, told: str) -> None:
    torch.set_num_threads(1)
    given = json.loads(told)
    subject = random(family, **given["model"])
    start = perf_counter()
    found = plugins.load("methods", method)(**given["settings"]).find(subject, RandomTask(subject, given["length"]))
    seconds = perf_counter() - start
    status = Path("/proc/self/status").read_text()  # of this process; getrusage tells of its parent's too
    peak = 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
    print(json.dumps({"peak": peak, "seconds": seconds, "kl": found.origin.result["kl"]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
