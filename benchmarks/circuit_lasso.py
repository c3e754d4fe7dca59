"""CircuitLasso beside EAP and EAP-IG on models whose edges are known: how many edges are wrong, and what it takes.

    python benchmarks/circuit_lasso.py            all cases, seven times each, and SmolLM2 (some minutes)
    python benchmarks/circuit_lasso.py smollm2    SmolLM2 alone: `find` and `score` on ioi, as a user runs them

Wrong edges (SHD) are false ones kept and true ones left out, reversals being impossible; edges that carry only a
position or a constant are not counted. `oracle`: as many edges as are true, the best by their scores. `budget`: the
fewest whose KL is at most 0.01 nats on validation prompts, the same rule for all. The lasso's own blind choice, BIC,
stands beside them. Seconds are CPU seconds, the median of what scoring all edges takes, in turn in one process, without
the choice of a size; the lasso's are split into collection (forward passes and Gram matrices) and solving. `of_eap_ig`:
their share of EAP-IG's.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import process_time
from typing import Any

import torch
from _record import write

from subcircuit.circuit import Circuit
from subcircuit.edge_tables import Edges
from subcircuit.ground_truth.bench import PAIRS, score
from subcircuit.ground_truth.cases import Case, cases
from subcircuit.methods.circuit_lasso import CircuitLasso
from subcircuit.methods.edge_attribution import EdgeAttribution

KL, VALIDATION = 0.01, 32
BLIND = ("bic",)
METHODS: dict[str, Callable[..., Any]] = {
    "eap": lambda **more: EdgeAttribution(path="clean", validation=VALIDATION, batch=64, **more),
    "eap-ig": lambda **more: EdgeAttribution(path="inputs", validation=VALIDATION, batch=64, **more),
    "circuit-lasso": lambda **more: CircuitLasso(validation=VALIDATION, batch=64, **more),
    "circuit-lasso paper": lambda **more: CircuitLasso.paper(
        validation=VALIDATION, batch=64, **{"select": "budget", **more}
    ),
}


@dataclass
class Clock:
    """When each phase of a search was last told of."""

    start: float = field(default_factory=process_time)
    phases: dict[str, float] = field(default_factory=dict)

    def __call__(self, phase: str, done: int, total: int, **facts: float) -> None:
        self.phases[phase] = process_time() - self.start

    def scoring(self) -> dict[str, float]:
        """Seconds until all edges had scores; of the lasso, collecting and solving besides."""
        if "lasso" not in self.phases:
            return {"total": self.phases["attribution"]}
        collected = self.phases["gram"]
        return {"total": self.phases["lasso"], "collect": collected, "solve": self.phases["lasso"] - collected}


def measured(case: Case, rounds: int) -> dict[str, Any]:
    """Every method on one case."""
    pairs = case.task.pairs(case.subject.tokenizer, PAIRS, seed=0, split="train")
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
    found: dict[str, Any] = {}
    for done in range(rounds + 1):  # the first round warms up
        for name, make in METHODS.items():
            clock = Clock()
            circuit = make(kl=KL).find(case.subject, case.task, pairs, progress=clock)
            if done:
                seconds[name].append(clock.scoring())
            found[name] = _figures(name, case, circuit)
    for name, times in seconds.items():
        found[name]["seconds"] = {part: statistics.median(each[part] for each in times) for part in times[0]}
    for select in BLIND:
        circuit = CircuitLasso(validation=VALIDATION, batch=64, select=select).find(case.subject, case.task, pairs)
        found["circuit-lasso"][f"shd_{select}"] = wrong(case, _edges(circuit).kept, circuit)
    return found


def _figures(name: str, case: Case, circuit: Circuit) -> dict[str, Any]:
    edges, result = _edges(circuit), score(name, case, circuit)
    true, told = truth(case)
    values = edges.scores.abs().masked_fill(~told, -torch.inf)
    best = torch.zeros_like(true).flatten()
    best[values.flatten().argsort(descending=True, stable=True)[: int(true.sum())]] = True
    assert result.edges is not None
    return {
        "auroc": result.edges.auroc,
        "auprc": result.edges.auprc,
        "true": int(true.sum()),
        "possible": int(told.sum()),
        "shd_oracle": wrong(case, best.view_as(true), circuit),
        "shd_budget": wrong(case, edges.kept, circuit),
        "kl_budget": circuit.origin.result["kl"],
    }


def truth(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Edges that carry tokens, and edges that are counted at all."""
    wiring = case.wiring
    true, fixed = torch.zeros_like(wiring.allowed), torch.zeros_like(wiring.allowed)
    for name, carries in case.edges.items():
        (true if carries == "token" else fixed)[wiring.parse(name)] = True
    return true, wiring.allowed & ~fixed


def wrong(case: Case, kept: torch.Tensor, circuit: Circuit) -> int:
    true, told = truth(case)
    return int(((kept ^ true) & told).sum())


def _edges(circuit: Circuit) -> Edges:
    assert circuit.edges is not None
    return circuit.edges


def summary(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Means over the cases, of every figure that a method has; of seconds the sum."""
    table: dict[str, Any] = {}
    for name in METHODS:
        parts = [each[name] for each in found.values()]
        means = {
            key: statistics.fmean(part[key] for part in parts)
            for key in parts[0]
            if key.startswith(("auroc", "auprc", "shd"))
        }
        table[name] = means | {
            "seconds": {part: sum(each["seconds"][part] for each in parts) for part in parts[0]["seconds"]}
        }
    for row in table.values():
        row["seconds"]["of_eap_ig"] = row["seconds"]["total"] / table["eap-ig"]["seconds"]["total"]
    return table


def real() -> dict[str, Any]:
    """What `find circuit-lasso` finds in SmolLM2, and what `score` says of it."""
    with tempfile.TemporaryDirectory() as folder:
        run = str(Path(folder) / "run")
        _subcircuit("find", "circuit-lasso", "--model", "smollm2-135m", "--task", "ioi", "--out", run)
        told = json.loads(_subcircuit("score", run, "--pairs", "16", "--json"))
    evidence = told["evidence"]
    rivals = {name: evidence[name]["kl"] for name in ("attribution", "integrated")}
    random = [each["kl"]["mean"] for each in evidence["random"]]
    own = {key: evidence[key] for key in ("pairs", "sizes")}
    return own | rivals | {"kl": evidence["circuit"]["kl"], "random": random, "verdict": told["verdict"]}


def _subcircuit(*arguments: str) -> str:
    return subprocess.run([sys.executable, "-m", "subcircuit", *arguments], check=True, stdout=-1, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=("all", "planted", "smollm2"), default="all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--case", action="append", default=[], help="of planted; nothing is written")
    args = parser.parse_args()
    if args.part != "smollm2":
        planted(args.case, args.rounds)
    if args.part != "planted" and not args.case:
        print(write("circuit_lasso", {"smollm2": real()}))


def planted(names: list[str], rounds: int) -> None:
    """Every case whose edges are known."""
    found = {}
    for case in cases(names):
        found[case.name] = measured(case, rounds)
        print(case.name, json.dumps(found[case.name]), flush=True)
    figures = {"rounds": rounds, "pairs": PAIRS, "kl": KL, "mean": summary(found), "cases": found}
    print(json.dumps(figures["mean"], indent=1))
    if not names:
        print(write("circuit_lasso", figures))


if __name__ == "__main__":
    main()
