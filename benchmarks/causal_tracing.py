"""Causal tracing against its rivals: the effect of k replaced components on held-out pairs, for a grid of k.

    python benchmarks/causal_tracing.py                                     everything (hours on two cores: the oracle)
    python benchmarks/causal_tracing.py --case "bias head" --search gates   a part; it joins the results of the others

All searches see the same discovery pairs. A curve has, for each size, the mean effect on the test pairs with its 95%
interval, the passes and the seconds of the whole search, and the components that were chosen; `overlap` is the Jaccard
index of two searches' components. The paper's search is run for several penalties, its sets being of any size.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from _measure import in_turn, plain_pass
from _record import read, write

from subcircuit import Circuit, load, task
from subcircuit.evaluation.intervals import average
from subcircuit.methods._tracing import Tracing
from subcircuit.methods.causal_tracing import CausalTracing
from subcircuit.replacement import Replacement
from subcircuit.subject import Subject

MODEL = "smollm2-135m"
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4)  # of all components
SEARCHES = ("gates", "greedy", "singles", "random", "paper")
PENALTIES = (0.0003, 0.001, 0.003, 0.01, 0.05)
CASES: dict[str, tuple[str, CausalTracing]] = {
    "bias head": ("occupation-bias", CausalTracing(kinds="head")),
    "bias head,mlp": ("occupation-bias", CausalTracing(kinds="head,mlp")),
    "fact head": ("fact-recall", CausalTracing(kinds="head", metric="probability", reference="noise")),
    "fact head,mlp": ("fact-recall", CausalTracing(kinds="head,mlp", metric="probability", reference="noise")),
}


def measure(subject: Subject, name: str, search: str, args: argparse.Namespace) -> dict[str, Any]:
    """The curve of one search."""
    prompts, settings = CASES[name]
    settings = replace(settings, pairs=args.discovery, validation=args.discovery, limit=10**9)
    study = task(prompts)
    count = len(Tracing("causal-tracing", settings, subject, study).components)
    sizes = sorted({max(1, round(share * count)) for share in SHARES if share <= args.most})
    if search == "paper":
        found = [
            (replace(CausalTracing.paper(k=k), **_shared(settings), penalty=penalty).find(subject, study), penalty)
            for penalty in PENALTIES
            for k in sizes[-1:]
        ]
        points = [_point(subject, circuit, args) | {"penalty": penalty} for circuit, penalty in found]
    else:
        grid = ",".join(map(str, sizes))
        circuits = replace(settings, search=search, budgets=grid).family(subject, study, progress=_say)
        points = [_point(subject, circuit, args) for circuit in circuits]
    print(name, search, [(point["k"], round(point["effect"]["mean"], 3)) for point in points], flush=True)
    return {"components": count, "curve": points}


def _shared(settings: CausalTracing) -> dict[str, Any]:
    names = ("metric", "kinds", "reference", "direction", "pairs", "validation")
    return {name: getattr(settings, name) for name in names}


def _point(subject: Subject, circuit: Circuit, args: argparse.Namespace) -> dict[str, Any]:
    """A set's effect on the test pairs."""
    origin = circuit.origin
    pairs = task(origin.task, **origin.task_options).pairs(subject.tokenizer, args.pairs, split="test")
    test = Replacement(
        subject,
        pairs,
        list(circuit.kept),
        origin.settings["metric"],
        direction=origin.settings["direction"],
        fill=origin.reference,
    )
    change = test.change(test.logits({site: 1 - kept.float() for site, kept in circuit.kept.items()}))
    effect, whole = average(change, 0), average(test.whole, 0)
    assert effect is not None and whole is not None
    nodes = [str(node) for kind in dict.fromkeys(site.kind for site in circuit.kept) for node in circuit.nodes(kind)]
    return {
        "k": len(nodes),
        "effect": effect.model_dump(),
        "relative": float(test.relative(change).mean()),
        "whole": whole.model_dump(),
        "discovery": origin.result["discovery"],
        "passes": origin.result["passes"],
        "seconds": origin.seconds,
        "nodes": nodes,
    }


def compared(results: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The mean effect over the grid of every search there is, and how far their sets overlap at each size."""
    curves = {search: results[f"{name} {search}"]["curve"] for search in SEARCHES if f"{name} {search}" in results}
    even = {search: curve for search, curve in curves.items() if search != "paper"}
    means = {search: statistics.mean(point["effect"]["mean"] for point in curve) for search, curve in even.items()}
    overlap = {
        f"{one}, {other}": {
            str(mine["k"]): len({*mine["nodes"]} & {*theirs["nodes"]}) / len({*mine["nodes"]} | {*theirs["nodes"]})
            for mine, theirs in zip(even[one], even[other], strict=True)
        }
        for one in even
        for other in even
        if one < other
    }
    return {f"{name} together": {"mean_effect": means, "overlap": overlap}}


def step(subject: Subject, rounds: int) -> dict[str, Any]:
    """A step of the gates over a plain forward and backward pass of the same prompts."""
    study = task("occupation-bias")
    tracing = Tracing("causal-tracing", CausalTracing(pairs=32, validation=1), subject, study)
    m = torch.full((len(tracing.components),), 0.1)
    tracing.slopes(m)
    runs = {"plain": plain_pass(subject, tracing.pairs.clean), "step": lambda: tracing.slopes(m)}
    return {"step": in_turn(runs, rounds)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append", help="may be repeated; all of them without")
    parser.add_argument("--search", choices=SEARCHES, action="append", help="may be repeated; all of them without")
    parser.add_argument("--pairs", type=int, default=64, help="test prompt pairs")
    parser.add_argument("--discovery", type=int, default=32, help="discovery prompt pairs")
    parser.add_argument("--most", type=float, default=SHARES[-1], help="largest share of the components in the grid")
    parser.add_argument("--rounds", type=int, default=20, help="of timing; 0 = none")
    parser.add_argument("--results", default="causal_tracing", help="name of the file of results")
    args = parser.parse_args(arguments)
    subject = load(MODEL)
    for name in args.case or CASES:
        for search in args.search or SEARCHES:
            write(args.results, {f"{name} {search}": measure(subject, name, search, args)})
            print(write(args.results, compared(read(args.results), name)), flush=True)
    if args.rounds:
        print(write(args.results, step(subject, args.rounds)), flush=True)


def _say(phase: str, done: int, total: int, **facts: float) -> None:
    if done == total or done % 10 == 0:
        print(phase, f"{done}/{total}", {key: round(value, 4) for key, value in facts.items()}, flush=True)


if __name__ == "__main__":
    main()
