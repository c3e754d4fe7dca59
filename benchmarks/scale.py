"""Plans beside what they plan, and two processes beside one.

    python benchmarks/scale.py             everything (about five minutes on two quiet cores)
    python benchmarks/scale.py share       a step of node pruning: one process with one thread, two of them
    python benchmarks/scale.py plan        memory and time of six searches in random models, planned and taken
    python benchmarks/scale.py checkpointing    a step of node pruning whose layers run twice, and one without

Both processes of `share` take the same steps in the same minutes as the single one, in turns. Plans are made of the
model's sizes, their time of one measured step; what they plan is run in a process of its own, with one thread. So is
each way of `checkpointing`, in turns; memory is the process's peak, with the weights and without.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from _measure import own_peak
from _record import write

from subcircuit import NodePruning, load, plugins, task
from subcircuit.ground_truth.planted import RandomTask
from subcircuit.ground_truth.tiny import tiny, word_tokenizer
from subcircuit.methods._node_study import NodeStudy
from subcircuit.methods._search import Search
from subcircuit.parallel.group import count, joined, rank
from subcircuit.planning.estimate import estimate, work_of
from subcircuit.planning.machine import Machine
from subcircuit.planning.pace import measured
from subcircuit.planning.shape import Shape
from subcircuit.planning.work import Load
from subcircuit.progress import silent
from subcircuit.subject import Subject

PARTS = ("all", "share", "plan", "checkpointing")
MODEL, BATCH, STEPS, ROUNDS = "smollm2-135m", 32, 4, 3
LLAMA = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8}
GPT2 = {"n_embd": 512, "n_inner": 2048, "n_layer": 8, "n_head": 8}
FEW = {"pairs": 16, "validation": 16, "batch": 16}
CONFIGURATIONS: list[tuple[str, str, dict[str, Any], dict[str, Any], int]] = [
    ("node-pruning", "llama", LLAMA, {**FEW, "steps": 8, "polish": 4, "warm_start": 2}, 48),
    ("node-pruning", "gpt2", GPT2, {**FEW, "steps": 8, "polish": 4, "cache_gb": 0.0}, 32),
    ("attribution-patching", "llama", LLAMA, {**FEW, "size": 0.2, "steps": 4}, 48),
    ("edge-attribution", "llama", LLAMA, {**FEW, "size": 0.01, "path": "inputs", "steps": 2}, 32),
    ("edge-pruning", "llama", {**LLAMA, "num_hidden_layers": 4}, {**FEW, "size": 0.1, "steps": 4}, 32),
    ("activation-patching", "llama", {**LLAMA, "num_hidden_layers": 2}, {**FEW, "size": 0.5}, 48),
]


def share() -> None:
    """As one of the processes: median seconds of a step, printed by the first."""
    torch.set_num_threads(1)
    with joined():
        subject, ioi = load(MODEL), task("ioi")
        pairs = ioi.pairs(subject.tokenizer, BATCH, split="train")
        method = NodePruning(pairs=BATCH, batch=BATCH, validation=1, warm_start=0)
        search = Search(method.plan(), NodeStudy("node-pruning", method, subject, ioi, pairs), silent)
        search.step(0)
        seconds = []
        for step in range(1, STEPS + 1):
            start = perf_counter()
            facts = search.step(step)
            seconds.append(perf_counter() - start)
        if rank() == 0:
            print(json.dumps({"processes": count(), "seconds": statistics.median(seconds), "kl": facts["kl"]}))


def sharing() -> dict[str, Any]:
    """One process and two, in turns; the ratio is the median over rounds."""
    found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for processes, taken in found.items():
            taken.append(_start(processes))
    seconds = {processes: statistics.median(each["seconds"] for each in taken) for processes, taken in found.items()}
    ratios = [one["seconds"] / two["seconds"] for one, two in zip(found[1], found[2], strict=True)]
    return {
        "batch": BATCH,
        "rounds": ROUNDS,
        "seconds": seconds,
        "times as fast": statistics.median(ratios),
        "kl apart": max(abs(one["kl"] - two["kl"]) for one, two in zip(found[1], found[2], strict=True)),
    }


def taken(number: int) -> None:
    """Run one configuration in this process; prints its plan and what it took."""
    torch.set_num_threads(1)
    method, family, model, settings, length = CONFIGURATIONS[number]
    subject = _random(family, model)
    own, source = plugins.load("methods", method)(**settings), RandomTask(subject, length)
    start = perf_counter()
    own.find(subject, source)
    seconds, peak = perf_counter() - start, own_peak()
    work = work_of(method, own, Shape.of(subject), Load(own.pairs, own.validation, length, float(length)))
    pairs = source.pairs(subject.tokenizer, work.rows)
    pace = measured(subject, pairs, subject.sites(*work.gated), work.rows, edges="edge" in method)
    plan = estimate(method, work, Machine("cpu", 1e12, 1, 1e12), pace=pace)
    told = {"method": method, "family": family, "model": model, "settings": settings, "tokens": length}
    print(json.dumps(told | {"bytes": peak, "planned": plan.peak, "seconds": seconds, "planned seconds": plan.seconds}))


def plans() -> list[dict[str, Any]]:
    """Every configuration in a process of its own; memory off by a share, time by a factor of the nearer end."""
    found = []
    for number in range(len(CONFIGURATIONS)):
        command = [sys.executable, __file__, "taken", "--number", str(number)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=_environment())
        row = json.loads(done.stdout.splitlines()[-1])
        low, high = row["planned seconds"]
        off = max(low / row["seconds"], row["seconds"] / high, 1.0)
        found.append(row | {"memory off": row["planned"] / row["bytes"] - 1, "time off": off})
        print(row["method"], row["family"], f"{found[-1]['memory off']:+.0%} memory, time off by {off:.2f}", flush=True)
    return found


def stepped(batch: int, *, again: bool) -> None:
    """Steps of node pruning in this process, whose layers run again or not; prints memory, time and KL."""
    torch.set_num_threads(1)
    subject, ioi = load(MODEL, checkpointing=again), task("ioi")
    pairs = ioi.pairs(subject.tokenizer, batch, split="train")
    method = NodePruning(pairs=batch, batch=batch, validation=1, warm_start=0)
    search = Search(method.plan(), NodeStudy("node-pruning", method, subject, ioi, pairs), silent)
    weights = sum(weight.numel() * weight.itemsize for weight in subject.model.parameters())
    seconds = []
    for step in range(STEPS):
        start = perf_counter()
        facts = search.step(step)
        seconds.append(perf_counter() - start)
    told = {"bytes": own_peak(), "weights": weights, "kl": facts["kl"]}
    print(json.dumps(told | {"seconds": statistics.median(seconds[1:])}))


def checkpointing(batch: int) -> dict[str, Any]:
    """Layers that run once and twice, in turns; ratios are medians over rounds."""
    found: dict[str, list[dict[str, float]]] = {"plain": [], "checkpointing": []}
    for _ in range(ROUNDS):
        for name, rows in found.items():
            command = [sys.executable, __file__, "stepped", "--batch", str(batch)]
            command += ["--again"] if name == "checkpointing" else []
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=_environment())
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    both = list(zip(found["checkpointing"], found["plain"], strict=True))
    names = ("bytes", "weights", "seconds", "kl")
    return {
        "batch": batch,
        "rounds": ROUNDS,
        **{key: {name: statistics.median(row[key] for row in rows) for name, rows in found.items()} for key in names},
        "memory": statistics.median(again["bytes"] / plain["bytes"] for again, plain in both),
        "memory without weights": statistics.median(
            (again["bytes"] - again["weights"]) / (plain["bytes"] - plain["weights"]) for again, plain in both
        ),
        "time": statistics.median(again["seconds"] / plain["seconds"] for again, plain in both),
    }


def _random(family: str, model: dict[str, Any]) -> Subject:
    """With weights of an ordinary start: in wide models those of `tiny` overflow."""
    subject = tiny(family, vocab_size=8192, **model)
    with torch.no_grad():
        for weight in subject.model.parameters():
            if weight.dim() > 1:
                weight.mul_(0.1)
    return Subject(subject.model, word_tokenizer(["a", "b"]), name=subject.name)


def _start(processes: int) -> dict[str, float]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, "one"],
            env=_environment() | group | {"RANK": str(at), "LOCAL_RANK": str(at)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for at in range(processes)
    ]
    printed = [each.communicate()[0] for each in started]
    found: dict[str, float] = json.loads(printed[0].splitlines()[-1])
    return found


def _environment() -> dict[str, str]:
    here = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": here}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=(*PARTS, "one", "taken", "stepped"), default="all")
    parser.add_argument("--number", type=int, default=0, help="of a configuration")
    parser.add_argument("--batch", type=int, default=BATCH, help="prompt pairs in a step, of checkpointing")
    parser.add_argument("--again", action="store_true", help="of a process: its layers run twice")
    args = parser.parse_args()
    if args.part == "one":
        return share()
    if args.part == "taken":
        return taken(args.number)
    if args.part == "stepped":
        return stepped(args.batch, again=args.again)
    if args.part in ("all", "share"):
        found = sharing()
        print(write("scale", {"share": found}), json.dumps(found, indent=1))
    if args.part in ("all", "plan"):
        print(write("scale", {"plan": plans()}))
    if args.part in ("all", "checkpointing"):
        measured_both = checkpointing(args.batch)
        print(write("scale", {"checkpointing": measured_both}), json.dumps(measured_both, indent=1))


if __name__ == "__main__":
    main()
