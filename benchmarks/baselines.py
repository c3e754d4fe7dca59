"""Methods side by side: circuits of real tasks within one budget of KL, scored on the same held-out prompts.

    python benchmarks/baselines.py                                    everything (more than an hour on two cores)
    python benchmarks/baselines.py --task ioi --method random         a part; it joins the results of the others

Every method keeps its own settings but the budget. Circuits stay in run folders (`--runs`), so that what is there of a
task can be compared whenever a part is added, by `subcircuit compare` too.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from _record import write

from subcircuit import Circuit, Evidence, NodePruning, evidence, load, task
from subcircuit.costs import Prices
from subcircuit.evaluation import compare
from subcircuit.methods.attribution_patching import AttributionPatching
from subcircuit.methods.edge_attribution import EdgeAttribution
from subcircuit.methods.random import Random
from subcircuit.subject import Subject

MODEL = "smollm2-135m"
KL = 0.3  # nats, on validation prompts
TASKS = ("ioi", "greater-than", "gendered-pronoun", "docstring")
Settings = NodePruning | AttributionPatching | EdgeAttribution | Random
METHODS: dict[str, Settings] = {
    "node-pruning": NodePruning(kl=KL),
    "attribution-patching": AttributionPatching(kl=KL),
    "edge-attribution": EdgeAttribution(kl=KL, path="inputs"),
    "random": Random(kl=KL, kinds=AttributionPatching.kinds),
}
FEW = 3  # random circuits of the same size, for all but the first method


def measure(subject: Subject, name: str, method: str, settings: Settings, args: argparse.Namespace) -> dict[str, Any]:
    """One circuit, found, scored and saved."""
    study, folder = task(name), args.runs / name / method
    earlier = _there(folder, settings)
    circuit = earlier or settings.find(subject, study, progress=_say)
    circuit.save(folder)
    controls = args.controls if method == next(iter(METHODS)) else min(FEW, args.controls)
    start = perf_counter()
    scored = Evidence.load(folder) if earlier and (folder / "evidence.json").is_file() else None
    if scored is None or (scored.pairs, len(scored.random)) != (args.pairs, controls):
        scored = evidence(subject, circuit, study, n=args.pairs, controls=controls)
        scored.save(folder)
    print(name, circuit, scored.verdict, scored.circuit, flush=True)
    return {
        **scored.model_dump(mode="json", exclude={"prompts"}),
        "verdict": scored.verdict,
        "origin": circuit.origin.model_dump(mode="json"),
        "weights": weights(subject, circuit),
        "seconds": circuit.origin.seconds,
        "scoring_seconds": perf_counter() - start,
    }


def _there(folder: Path, settings: Settings) -> Circuit | None:
    """The circuit of an earlier run with the very same settings."""
    if not (folder / "circuit.json").is_file():
        return None
    circuit = Circuit.load(folder)
    return circuit if circuit.origin.settings == asdict(settings) else None


def weights(subject: Subject, circuit: Circuit) -> float:
    """The share of the layers' weights that belongs to what a circuit keeps; edges: to the nodes that they join."""
    kinds = dict.fromkeys(site.kind for site in circuit.kept)
    kept = {
        kind: torch.stack([circuit.kept[site].float() for site in sorted(circuit.kept) if site.kind is kind])
        for kind in kinds
    }
    return float(Prices.of(subject, "parameters", tokens=1, kinds=kinds).expected(kept))


def together(runs: Path, name: str) -> dict[str, Any]:
    """What differs between the runs of a task that are there, and how far every two circuits overlap."""
    folders = [runs / name / method for method in METHODS if (runs / name / method / "evidence.json").is_file()]
    if len(folders) < 2:
        return {}
    found = compare(folders).model_dump(mode="json", include={"differences", "together"})
    for pair in found["together"]:
        pair |= {side: Path(pair[side]).name for side in ("first", "second")}
    return {f"{name} together": found}


def measured(method: str, quick: bool) -> Settings:
    """A method with its settings, or with hardly any prompts and steps."""
    settings = METHODS[method]
    if not quick:
        return settings
    few = replace(settings, pairs=8, validation=8, batch=8)
    return replace(few, steps=6, warm_start=1, polish=0) if isinstance(few, NodePruning) else few


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, action="append", help="may be repeated; all of them without")
    parser.add_argument("--method", choices=METHODS, action="append", help="may be repeated; all of them without")
    parser.add_argument("--pairs", type=int, default=64, help="test prompt pairs")
    parser.add_argument("--controls", type=int, default=20, help="random circuits beside the first method's")
    parser.add_argument("--runs", type=Path, default=Path("runs/baselines"), help="where the circuits are kept")
    parser.add_argument("--results", default="baselines", help="name of the file of results")
    parser.add_argument("--quick", action="store_true", help="hardly any prompts and steps: to see that it works")
    args = parser.parse_args(arguments)
    subject = load(MODEL)
    for name in args.task or TASKS:
        for method in args.method or METHODS:
            point = measure(subject, name, method, measured(method, args.quick), args)
            print(write(args.results, {f"{name} {method}": point} | together(args.runs, name)), flush=True)


def _say(phase: str, done: int, total: int, **facts: float) -> None:
    if done == total or done % 25 == 0:
        print(phase, f"{done}/{total}", {key: round(value, 4) for key, value in facts.items()}, flush=True)


if __name__ == "__main__":
    main()
