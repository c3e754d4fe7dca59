"""How time and memory are measured: in one process, taking turns; each peak is of a process of its own."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from subcircuit.subject import Prompts, Subject

__all__ = ["in_turn", "own_peak", "peaks", "plain_pass"]


def plain_pass(subject: Subject, prompts: Prompts) -> Callable[[], object]:
    """Forward and backward to the embeddings, weights frozen, logits at judged positions only."""
    embed, mask = subject.model.get_input_embeddings(), prompts.mask.long()

    def run() -> None:
        inputs = embed(prompts.ids).requires_grad_()
        with subject.judged_only(prompts.at):
            out = subject.model(inputs_embeds=inputs, attention_mask=mask, use_cache=False)
        out.logits.float().log_softmax(-1)[:, 0, 0].sum().backward()

    return run


def in_turn(runs: Mapping[str, Callable[[], object]], rounds: int, base: str = "plain") -> dict[str, Any]:
    """Median seconds of each, and the median over rounds of each one's ratio to the base. The first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for done in range(rounds + 1):
        for name, run in runs.items():
            start = perf_counter()
            run()
            if done:
                seconds[name].append(perf_counter() - start)
    others = [name for name in runs if name != base]
    ratio = {n: statistics.median(a / b for a, b in zip(seconds[n], seconds[base], strict=True)) for n in others}
    return {"rounds": rounds, "seconds": {n: statistics.median(s) for n, s in seconds.items()}, "ratio": ratio}


def peaks(script: str, modes: list[str], base: str = "plain") -> dict[str, Any]:
    """Peak memory of `script peak --mode MODE` for every mode; over the base's, of all and of what is not weights."""
    found = {}
    for mode in modes:
        command = [sys.executable, script, "peak", "--mode", mode]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[mode] = json.loads(printed.strip().splitlines()[-1])
    least = found[base]
    others = {mode: each for mode, each in found.items() if mode != base}
    added = {m: (e["peak"] - e["weights"]) / (least["peak"] - least["weights"]) for m, e in others.items()}
    return {
        "bytes": found,
        "ratio": {mode: each["peak"] / least["peak"] for mode, each in others.items()},
        "ratio_without_weights": added,
    }


def own_peak() -> int:
    """This process's own peak; what getrusage tells is never below the peak of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
