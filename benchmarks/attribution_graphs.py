"""Attribution graphs and circuits of features on models trained here, and what they cost.

    python benchmarks/attribution_graphs.py            every part but `prompt` (an hour on two CPU cores)
    python benchmarks/attribution_graphs.py --quick    a smaller world and one seed (two minutes); writes nothing
    python benchmarks/attribution_graphs.py --part prompt --transcoders DIR --model smollm2-135m

`sums`: a model of addition modulo 59, trained anew with each seed; a transcoder per layer; circuits of features beside
their controls, on sums that the model never saw in training. `growth`: what coarsening takes against the size of a
graph. `prompt`: time, memory and scores of one prompt's graph.
"""

import argparse
import resource
import statistics
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from _record import read
from _record import write as record
from _small_worlds import Sums, named
from torch import Tensor

from subcircuit import load
from subcircuit.features.documents import Documents
from subcircuit.features.harvest import Harvest
from subcircuit.features.training import Training
from subcircuit.features.transcoders import Transcoders, read_transcoders
from subcircuit.graphs.attribution import Attribution
from subcircuit.graphs.coarsening import coarsen
from subcircuit.graphs.graph import Graph
from subcircuit.graphs.influence import prune, quality
from subcircuit.graphs.study import FeatureCircuit, FeatureStudy
from subcircuit.graphs.switching import Ablation
from subcircuit.sites import Kind, Site
from subcircuit.subject import Prompts, Subject
from subcircuit.tasks._base import Pairs, Split

PROMPT = "When Mary and John went to the store, John gave a drink to"
GREEDY = 2  # seeds with a greedy search beside, which takes as long as all the rest
ABLATIONS: tuple[Ablation, ...] = ("counterfactual", "mean", "zero")


@dataclass
class SumTask:
    """Sums as prompt pairs: right is the model's own answer, wrong the one to the corrupted sum.

    Graphs are made of sums that the model was trained on; the search and the evidence share out those it never saw.
    """

    subject: Subject
    world: Sums
    name: str = "sums"

    def pairs(self, tokenizer: Any, n: int, *, seed: int = 0, split: Split = "train") -> Pairs:
        held, total = self.world.held, len(self.world.prompts)
        start, stop = {"train": (held, total), "validation": (0, held // 2), "test": (held // 2, held)}[split]
        draws = torch.Generator().manual_seed(seed)
        rows = start + torch.randperm(stop - start, generator=draws)[:n]
        clean = _prompts(self.world.prompts[rows])
        with torch.no_grad():
            right = self.subject.logits(clean).argmax(-1)
        others = torch.stack([self._other(start, stop, int(answer), draws) for answer in right])
        corrupt = _prompts(self.world.prompts[others])
        with torch.no_grad():
            wrong = self.subject.logits(corrupt).scatter(1, right[:, None], -torch.inf).argmax(-1)
        return Pairs(clean, corrupt, right[:, None], wrong[:, None])

    def _other(self, start: int, stop: int, answer: int, draws: torch.Generator) -> Tensor:
        """A sum of the same split with another answer."""
        while True:
            row = torch.randint(start, stop, (), generator=draws)
            if int(self.world.answers[row]) != answer:
                return row


def sums(args: argparse.Namespace) -> dict[str, Any]:
    """Circuits of addition, a model and its transcoders for every seed."""
    world, names = Sums(args.modulus), ("modulus", "steps", "features", "k", "epochs", "lr", "goal", "pairs")
    found: dict[str, Any] = {"settings": {name: vars(args)[name] for name in names}, "seeds": []}
    before = read("attribution_graphs").get("sums", {})
    if not args.quick and before.get("settings") == found["settings"]:
        found = before  # an hour in all: what is done stays
    for seed in range(len(found["seeds"]), args.seeds):
        found["seeds"].append(_sum(world, args, seed))
        if not args.quick:
            record("attribution_graphs", {"sums": found})
    return found


def _sum(world: Sums, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    subject = named(world.model(args.steps, seed), world.p + 1, f"sums-{seed}")
    accuracy = world.accuracy(subject.model)
    transcoders, unexplained = _transcoders(subject, world, args, seed)
    task = SumTask(subject, world)
    graphs = Attribution(skip=0)
    some = [graphs.graph(subject, transcoders, _prompts(world.prompts[[row]])) for row in range(min(8, args.pairs))]
    scores = [quality(graph) for graph in some]
    print(f"seed {seed}: accuracy {accuracy:.3f}, FVU {[round(each, 4) for each in unexplained]}", flush=True)
    found: dict[str, Any] = {}
    for ablation in ABLATIONS:
        study = FeatureStudy(
            goal=args.goal,
            ablation=ablation,
            pairs=args.pairs,
            validation=args.judged,
            test=args.judged,
            skip=0,
            greedy=ablation == "counterfactual" and seed < GREEDY,
            seed=seed,
        )
        circuit = study.find(subject, transcoders, task)
        found[ablation] = _told(circuit)
        print(f"  {ablation}: {found[ablation]}", flush=True)
    return {
        "accuracy": accuracy,
        "fvu": unexplained,
        "active per prompt": statistics.mean(graph.active for graph in some),
        "replacement": statistics.mean(each.replacement for each in scores),
        "completeness": statistics.mean(each.completeness for each in scores),
        "circuits": found,
    }


def _transcoders(subject: Subject, world: Sums, args: argparse.Namespace, seed: int) -> tuple[Transcoders, list[float]]:
    """A transcoder per layer, trained on the sums that the model was trained on; and what they leave unexplained."""
    documents = Documents(world.prompts[world.held :].int())
    settings = Training(features=args.features, k=args.k, steps=args.epochs * 10, batch=1024, lr=args.lr, seed=seed)
    layers, unexplained = [], []
    unseen = _prompts(world.prompts[: world.held])
    for layer in range(len(subject)):
        reads, writes = Site(layer, Kind.MLP_IN), Site(layer, Kind.MLP)
        layers.append(settings.train(Harvest(subject, documents, reads, writes, skip=0, seed=seed)).dictionary)
        _, seen = subject.record(unseen, [reads, writes])
        unexplained.append(layers[-1].fvu(*(seen[site].flatten(0, 2) for site in (reads, writes))))
    return Transcoders.of(layers), unexplained


def _told(circuit: FeatureCircuit) -> dict[str, Any]:
    told = circuit.evidence
    controls = {name: row.sufficiency.exact_match.mean for name, row in told.controls.items()}
    greedy = told.controls.get("greedy")
    return {
        "features": len(circuit.features),
        "candidates": circuit.candidates,
        "share": len(circuit.features) / circuit.candidates,
        "groups": len(circuit.groups),
        "levels": circuit.levels,
        "tests": circuit.tests,
        "flat tests": circuit.flat_tests,
        "greedy features": greedy.features if greedy else None,
        "exact match": told.circuit.sufficiency.exact_match.model_dump(),
        "kl": told.circuit.sufficiency.kl.mean,
        "without it": told.circuit.necessity.exact_match.mean,
        "empty": told.empty.exact_match.mean,
        "random": statistics.mean(told.random),
        "random best": max(told.random),
        "controls": controls,
        "cpr": {each.ranking: each.cpr.mean if each.cpr else None for each in told.curves},
        "cmd": {each.ranking: each.cmd.mean if each.cmd else None for each in told.curves},
        "seconds": circuit.seconds,
    }


def growth(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of influence, pruning and coarsening for random graphs of n features in 12 layers."""
    rows = []
    for size in args.sizes:
        graph = _random_graph(size, 12)
        times = {}
        for name, work in {"influence": quality, "pruning": prune, "coarsening": coarsen}.items():
            began = perf_counter()
            found = work(graph)
            times[name] = round(perf_counter() - began, 3)
        rows.append({"features": size, "levels": found.sizes, **times})  # type: ignore[union-attr]  # of the last
        print(f"{size} features: {times}", flush=True)
    return {"rows": rows}


def prompt(args: argparse.Namespace) -> dict[str, Any]:
    """One prompt's graph on a real model, with transcoders that were made before."""
    subject, transcoders = load(args.model), read_transcoders(args.transcoders)
    began = perf_counter()
    graph = Attribution(max_features=args.max_features).graph(subject, transcoders, PROMPT)
    seconds, found, left = perf_counter() - began, quality(graph), prune(graph)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    figures = {
        "model": args.model,
        "tokens": len(graph.tokens),
        "active": graph.active,
        "features": len(graph.features),
        "seconds": seconds,
        "peak GiB": peak,
        "replacement": found.replacement,
        "completeness": found.completeness,
        "pruned nodes": int(left.nodes.sum()),
        "pruned edges": int(left.edges.sum()),
    }
    print(figures, flush=True)
    return figures


def _random_graph(features: int, layers: int) -> Graph:
    """Every feature hears a tenth of those of earlier layers, the token and an error; the last layer's are read."""
    draws = torch.Generator().manual_seed(0)
    layer = torch.arange(features) * layers // features
    nodes = features + layers + 2
    adjacency = torch.zeros(nodes, nodes)
    effects = torch.randn(features, features, generator=draws) * (torch.rand(features, features, generator=draws) < 0.1)
    adjacency[:features, :features] = effects * (layer[:, None] > layer)
    adjacency[:features, -2] = 1.0
    adjacency[-1, :features] = torch.randn(features, generator=draws)
    return Graph(
        adjacency=adjacency,
        features=torch.stack([layer, torch.zeros_like(layer), torch.arange(features)], 1),
        activations=torch.ones(features),
        layers=layers,
        tokens=(0,),
        words=("x",),
        targets=(0,),
        labels=("y",),
        weights=torch.ones(1),
        logits=torch.zeros(1),
        constants=torch.zeros(nodes),
        rest=torch.zeros(nodes),
    )


def _prompts(ids: Tensor) -> Prompts:
    return Prompts(ids, torch.ones_like(ids, dtype=torch.bool), torch.full((len(ids),), ids.shape[1] - 1))


PARTS = {"sums": sums, "growth": growth, "prompt": prompt}
QUICK = {
    "modulus": 23,
    "steps": 400,
    "features": 256,
    "epochs": 60,
    "seeds": 1,
    "pairs": 16,
    "judged": 48,
    "sizes": [200, 400],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(PARTS), action="append")
    parser.add_argument("--quick", action="store_true", help="a small world, one seed; nothing is written")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--modulus", type=int, default=59)
    parser.add_argument("--steps", type=int, default=1000, help="of the model's own training")
    parser.add_argument("--features", type=int, default=512, help="of each transcoder")
    parser.add_argument("--k", type=int, default=64, help="features on at a time")
    parser.add_argument("--epochs", type=int, default=300, help="tens of steps of a transcoder's training")
    parser.add_argument("--lr", type=float, default=6e-3, help="of a transcoder's training")
    parser.add_argument("--goal", type=float, default=0.97, help="of exact match, on validation sums")
    parser.add_argument("--pairs", type=int, default=64, help="sums whose graphs are made")
    parser.add_argument("--judged", type=int, default=340, help="sums of the search, and of the evidence")
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 1000, 2000, 4000, 8000])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--transcoders", type=Path, help="of prompt")
    parser.add_argument("--max-features", type=int, default=2000)
    args = parser.parse_args()
    if args.quick:
        vars(args).update(QUICK)
    for part in args.part or ["sums", "growth"]:
        figures = PARTS[part](args)
        if not args.quick:
            print(record("attribution_graphs", {part: figures}), flush=True)


if __name__ == "__main__":
    main()
