"""Causal tracing against its rivals: the effect of k replaced components on held-out pairs, for a grid of k.

    python benchmarks/causal_tracing.py                                     everything (many hours: the oracle)
    python benchmarks/causal_tracing.py --case "bias head" --search gates   a part; it joins the results of the others

All searches see the same discovery pairs. Every size is written as soon as it is found, and a search that is stopped
goes on where it was. A curve has, for each size, the mean effect on the test pairs with its 95% interval, the passes
and the seconds so far, and the components. The paper's search, whose sets are of any size, is run for several
penalties; `gates-paper` is ours at the sizes that it reached. `CASE goals` has what is to be shown, with whether it is.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
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
SEARCHES = ("gates", "singles", "random", "dcm", "paper", "gates-paper", "greedy")
PENALTIES = (0.0003, 0.001, 0.003, 0.01, 0.05)
AT_MOST = 8  # of the paper's sizes, spread over those that it reached
STEP = 1.6  # times a plain forward and backward pass
PASSES = 100  # times fewer than the oracle's
CASES: dict[str, tuple[str, CausalTracing]] = {
    "bias head": ("occupation-bias", CausalTracing(kinds="head")),
    "bias head,mlp": ("occupation-bias", CausalTracing(kinds="head,mlp")),
    "fact head": ("fact-recall", CausalTracing(kinds="head", metric="probability", reference="noise")),
    "fact head,mlp": ("fact-recall", CausalTracing(kinds="head,mlp", metric="probability", reference="noise")),
}
Point = dict[str, Any]


class Part:
    """One search on one case: what it is run on, and where its figures go."""

    def __init__(self, subject: Subject, case: str, search: str, args: argparse.Namespace) -> None:
        self.subject, self.case, self.search, self.args = subject, case, search, args
        self.prompts, settings = CASES[case]
        many = {"pairs": args.discovery, "validation": 1, "limit": 10**9, "seed": args.seed}
        self.settings = replace(settings, **many)
        test = task(self.prompts).pairs(subject.tokenizer, args.pairs, split="test")
        self.test = Replacement(
            subject, test, subject.sites(*self.tracing(self.settings).kinds), settings.metric, fill=settings.reference
        )
        self.count = len(self.tracing(self.settings).components)

    @property
    def sizes(self) -> list[int]:
        """The grid of k."""
        return sorted({max(1, round(share * self.count)) for share in SHARES if share <= self.args.most})

    def tracing(self, settings: CausalTracing, name: str = "") -> Tracing:
        """What a search is run on; with a name it goes on from where it was."""
        folder = Path(self.args.state) / self.args.results / f"{self.case} {name}".replace(" ", "-") if name else None
        return Tracing("causal-tracing", settings, self.subject, task(self.prompts), None, folder)

    def run(self) -> None:
        """Find and judge every size, and write it."""
        if self.search == "paper":
            self.write(sorted(self.penalised(), key=lambda point: int(point["k"])))
        elif self.search == "gates-paper":
            reached = read(self.args.results).get(f"{self.case} paper", {}).get("curve", [])
            self.nested(replace(self.settings, search="gates"), [int(point["k"]) for point in reached])
        elif self.search == "dcm":
            mask = {"steps": 50, "lr": 0.02}  # half the steps of the preset, twice as long
            self.nested(CausalTracing.dcm(**{**_shared(self.settings), **mask}), self.sizes)
        else:
            self.nested(replace(self.settings, search=self.search), self.sizes)

    def nested(self, settings: CausalTracing, sizes: list[int]) -> None:
        """One size after another by one search."""
        if not sizes:
            return
        settings = replace(settings, budgets=",".join(map(str, sizes)))
        tracing, points = self.tracing(settings, self.search), []
        for done in range(1, len(sizes) + 1):
            sets, scores = settings.sets(tracing, sizes[:done], _say)
            passes = tracing.passes
            points.append(self.point(tracing.circuit(sets[-1], scores, sizes[done - 1])) | {"passes": passes})
            self.write(points)

    def penalised(self) -> list[Point]:
        """The paper's set after every epoch, under several penalties; of sets of one size the best in discovery."""
        best: dict[int, Point] = {}
        for penalty in PENALTIES:
            settings = CausalTracing.paper(**_shared(self.settings), k=1, penalty=penalty)
            tracing = self.tracing(settings, f"paper {penalty:g}")
            _, scores = settings.sets(tracing, [1], _say)
            passes = tracing.passes
            for chosen in tracing.memory.tensors["sets"].unique(dim=0):
                k = int(chosen.sum())
                value = tracing.value(chosen) if 0 < k <= self.sizes[-1] else -torch.inf
                if value > best.get(k, {"discovery": -torch.inf})["discovery"]:
                    found = self.point(tracing.circuit(chosen, scores, k))
                    best[k] = found | {"passes": passes, "penalty": penalty}
        sizes = sorted(best)
        spread = {sizes[round(i * (len(sizes) - 1) / (AT_MOST - 1))] for i in range(AT_MOST)} if sizes else set()
        return [best[k] for k in spread]

    def point(self, circuit: Circuit) -> Point:
        """A set's effect on the test pairs."""
        change = self.test.change(self.test.logits({site: 1 - kept.float() for site, kept in circuit.kept.items()}))
        effect, whole = average(change, 0), average(self.test.whole, 0)
        assert effect is not None and whole is not None
        kinds = dict.fromkeys(site.kind for site in circuit.kept)
        nodes = [str(node) for kind in kinds for node in circuit.nodes(kind)]
        return {
            "k": len(nodes),
            "effect": effect.model_dump(),
            "relative": float(self.test.relative(change).mean()),
            "whole": whole.model_dump(),
            "discovery": circuit.origin.result["discovery"],
            "seconds": circuit.origin.seconds,
            "nodes": nodes,
        }

    def write(self, points: Sequence[Point]) -> None:
        """The curve so far."""
        print(self.case, self.search, [(point["k"], round(point["effect"]["mean"], 3)) for point in points], flush=True)
        pairs = {"discovery_pairs": self.args.discovery, "test_pairs": self.args.pairs, "seed": self.args.seed}
        figures = {"components": self.count, **pairs, "curve": list(points)}
        write(self.args.results, {f"{self.case} {self.search}": figures})
        write(self.args.results, compared(read(self.args.results), self.case))


def compared(results: Mapping[str, Any], case: str) -> dict[str, Any]:
    """What is to be shown on a case, over the sizes that both sides have; and how far sets overlap at each size."""
    curves = {
        search: {point["k"]: point for point in results[f"{case} {search}"]["curve"]}
        for search in SEARCHES
        if f"{case} {search}" in results
    }
    own = curves.get("gates", {})
    goals = {search: _against(own, curves[search]) for search in curves if search not in ("gates", "paper")}
    goals.pop("gates-paper", None)
    if "gates-paper" in curves:
        goals["paper"] = _against(curves["gates-paper"], curves["paper"])
    oracle = goals.get("greedy")
    if oracle and oracle["sizes"]:
        last = oracle["sizes"][-1]
        ratio = curves["greedy"][last]["passes"] / own[last]["passes"]
        oracle |= {"passes_ratio": ratio, "enough": ratio >= PASSES and oracle["mean_difference"] >= 0}
    reached = all(point["k"] == k for k, point in own.items())
    names = [search for search in curves if "paper" not in search]
    overlap = {
        f"{one}, {other}": {str(k): _jaccard(curves[one][k], curves[other][k]) for k in _both(curves, one, other)}
        for one in names
        for other in names
        if one < other
    }
    return {f"{case} goals": {**goals, "k_reached_exactly": reached}, f"{case} overlap": overlap}


def _against(own: Mapping[int, Point], theirs: Mapping[int, Point]) -> dict[str, Any]:
    """Our mean effect over the sizes of both, theirs, and the sizes at which ours is lower."""
    sizes = sorted(own.keys() & theirs.keys())
    if not sizes:
        return {"sizes": sizes}
    ours, their = ([curve[k]["effect"]["mean"] for k in sizes] for curve in (own, theirs))
    means = statistics.mean(ours), statistics.mean(their)
    below = [k for k, mine, other in zip(sizes, ours, their, strict=True) if mine < other]
    return {
        "sizes": sizes,
        "mean_effect": means[0],
        "rival_mean_effect": means[1],
        "mean_difference": means[0] - means[1],
        "below_at": below,
    }


def _both(curves: Mapping[str, Mapping[int, Point]], one: str, other: str) -> list[int]:
    return sorted(curves[one].keys() & curves[other].keys())


def _jaccard(one: Point, other: Point) -> float:
    mine, theirs = {*one["nodes"]}, {*other["nodes"]}
    return len(mine & theirs) / len(mine | theirs)


def _shared(settings: CausalTracing) -> dict[str, Any]:
    names = ("metric", "kinds", "reference", "direction", "pairs", "validation", "limit", "seed")
    return {name: getattr(settings, name) for name in names}


def step(subject: Subject, rounds: int) -> dict[str, Any]:
    """A step of the gates over a plain forward and backward pass of the same prompts."""
    study = task("occupation-bias")
    tracing = Tracing("causal-tracing", CausalTracing(pairs=32, validation=1), subject, study)
    m = torch.full((len(tracing.components),), 0.1)
    tracing.slopes(m)
    runs = {"plain": plain_pass(subject, tracing.pairs.clean), "step": lambda: tracing.slopes(m)}
    timed = in_turn(runs, rounds)
    return {"step": timed | {"limit": STEP, "enough": timed["ratio"]["step"] <= STEP}}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append", help="may be repeated; all of them without")
    parser.add_argument("--search", choices=SEARCHES, action="append", help="may be repeated; all of them without")
    parser.add_argument("--pairs", type=int, default=64, help="test prompt pairs")
    parser.add_argument("--discovery", type=int, default=32, help="discovery prompt pairs")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts")
    parser.add_argument("--most", type=float, default=SHARES[-1], help="largest share of the components in the grid")
    parser.add_argument("--rounds", type=int, default=0, help="of timing a step; 0 = none")
    parser.add_argument("--results", default="causal_tracing", help="name of the file of results")
    parser.add_argument("--state", default="runs/benchmarks", help="where searches keep what they have done")
    args = parser.parse_args(arguments)
    subject = load(MODEL)
    if args.rounds:
        print(write(args.results, step(subject, args.rounds)), flush=True)
    for case in args.case or CASES:
        for search in args.search or SEARCHES:
            Part(subject, case, search, args).run()


def _say(phase: str, done: int, total: int, **facts: float) -> None:
    if done == total or done % 10 == 0:
        print(phase, f"{done}/{total}", {key: round(value, 4) for key, value in facts.items()}, flush=True)


if __name__ == "__main__":
    main()
