"""Node pruning measured: what a step costs beside a plain pass, and KL against size beside its controls.

    python benchmarks/node_pruning.py            everything (about half an hour on two cores)
    python benchmarks/node_pruning.py step       time and memory ratios
    python benchmarks/node_pruning.py curves --task ioi

Times are medians of steps taken in turn with plain passes in one process; peak memory is of a process of its own each.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from _record import read, write

from subcircuit import NodePruning, evidence, load, task
from subcircuit.methods._node_study import NodeStudy
from subcircuit.methods._search import Search
from subcircuit.progress import silent

MODEL = "smollm2-135m"
TASKS = ("ioi", "greater-than", "gendered-pronoun", "docstring")
BUDGETS = "0.1,0.3,1"
RUNS, COMPARED = Path("runs/baselines"), 0.3  # nats: the budget of `baselines.py`, which goes on from these circuits


class Bench:
    """One batch of IOI pairs and the ways to spend a pass on it."""

    def __init__(self, batch: int) -> None:
        self.subject = load(MODEL)
        self.pairs = task("ioi").pairs(self.subject.tokenizer, batch, split="train")
        self.method = NodePruning(pairs=batch, batch=batch, validation=1, warm_start=0)

    def plain(self) -> Callable[[], object]:
        """Forward and backward to the embeddings, weights frozen, logits at judged positions only."""
        clean = self.pairs.clean
        embed, mask = self.subject.model.get_input_embeddings(), clean.mask.long()

        def run() -> None:
            inputs = embed(clean.ids).requires_grad_()
            with self.subject.judged_only(clean.at):
                out = self.subject.model(inputs_embeds=inputs, attention_mask=mask, use_cache=False)
            out.logits.float().log_softmax(-1)[:, 0, 0].sum().backward()

        return run

    def step(self, cache_gb: float) -> tuple[Callable[[], object], int]:
        """One optimisation step of node pruning, and the bytes of its cache."""
        method = replace(self.method, cache_gb=cache_gb)
        study = NodeStudy("node-pruning", method, self.subject, task("ioi"), self.pairs)
        search = Search(method.plan(), study, silent)
        count = iter(range(10**9))
        return lambda: search.step(next(count)), study.corrupted.cached


def time_ratios(batch: int, rounds: int) -> dict[str, Any]:
    """Steps and plain passes in turn; the ratio is the median over rounds."""
    bench = Bench(batch)
    (cached, size), (recomputed, _) = bench.step(8.0), bench.step(0.0)
    runs = {"plain": bench.plain(), "cached": cached, "recomputed": recomputed}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for done in range(rounds + 1):  # the first round warms up
        for name, run in runs.items():
            start = perf_counter()
            run()
            if done:
                seconds[name].append(perf_counter() - start)
    ratios = {
        name: statistics.median(a / b for a, b in zip(seconds[name], seconds["plain"], strict=True))
        for name in ("cached", "recomputed")
    }
    tokens = bench.pairs.clean.ids.numel()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "batch": batch,
        "tokens": tokens,
        "rounds": rounds,
        "seconds": medians,
        "ratio": ratios,
        "cache_bytes": size,
    }


def peak(mode: str, batch: int) -> None:
    """Three passes in this process; prints its peak resident memory and the size of the model's weights, in bytes."""
    bench = Bench(batch)
    run = bench.plain() if mode == "plain" else bench.step(8.0 if mode == "cached" else 0.0)[0]
    weights = sum(weight.numel() * weight.itemsize for weight in bench.subject.model.parameters())
    for _ in range(3):
        run()
    print(json.dumps({"peak": _peak(), "weights": weights}))


def memory_ratios(batch: int) -> dict[str, Any]:
    """Peak memory over a plain pass's: of the whole process, and of what is not weights."""
    found = {}
    for mode in ("plain", "recomputed", "cached"):
        command = [sys.executable, __file__, "peak", "--mode", mode, "--batch", str(batch)]
        found[mode] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    plain = found["plain"]
    ratio = {mode: each["peak"] / plain["peak"] for mode, each in found.items() if mode != "plain"}
    added = {
        mode: (each["peak"] - plain["weights"]) / (plain["peak"] - plain["weights"])
        for mode, each in found.items()
        if mode != "plain"
    }
    return {"batch": batch, "bytes": found, "ratio": ratio, "ratio_without_weights": added}


def curve(name: str, budgets: str, pairs: int, controls: int) -> list[dict[str, Any]]:
    """The nested family of one task and the evidence of each of its circuits on the test split.

    Points of other budgets that have been measured stay. A circuit of `COMPARED` alone is kept for `baselines.py`.
    """
    subject, study = load(MODEL), task(name)
    method = NodePruning(budgets=budgets) if "," in budgets else NodePruning(kl=float(budgets))
    start = perf_counter()
    circuits = method.family(subject, study, progress=_say)
    seconds = perf_counter() - start
    points = []
    for circuit in circuits:
        found = evidence(subject, circuit, study, n=pairs, controls=controls)
        if method.kl == COMPARED and not method.budgets:
            circuit.save(RUNS / name / "node-pruning")
            found.save(RUNS / name / "node-pruning")
        point = found.model_dump(exclude={"prompts"}) | {
            "verdict": found.verdict,
            "origin": circuit.origin.model_dump(),
        }
        points.append(point | {"budget": circuit.origin.result["budget"], "search_seconds": seconds})
        print(name, circuit.sizes, found.verdict, found.circuit, flush=True)
    measured = {point["budget"] for point in points}
    others = [point for point in read("node_pruning").get(f"curve {name}", []) if point["budget"] not in measured]
    return sorted(others + points, key=lambda point: point["budget"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=("all", "step", "curves", "peak"), default="all")
    parser.add_argument("--task", choices=TASKS, action="append")
    parser.add_argument("--mode", choices=("plain", "cached", "recomputed"))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--budgets", default=BUDGETS, help="KL budgets of the family, in nats")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--controls", type=int, default=20)
    args = parser.parse_args()
    if args.part == "peak":
        return peak(args.mode, args.batch)
    if args.part in ("all", "step"):
        step = {"memory": memory_ratios(args.batch), "time": time_ratios(args.batch, args.rounds)}
        print(write("node_pruning", {"step": step}), json.dumps(step, indent=1))
    if args.part in ("all", "curves"):
        for name in args.task or TASKS:
            print(write("node_pruning", {f"curve {name}": curve(name, args.budgets, args.pairs, args.controls)}))


def _peak() -> int:
    """This process's own peak; what getrusage tells is never below the peak of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def _say(phase: str, done: int, total: int, **facts: float) -> None:
    if done == total or done % 25 == 0:
        print(phase, f"{done}/{total}", {key: round(value, 4) for key, value in facts.items()}, flush=True)


if __name__ == "__main__":
    main()
