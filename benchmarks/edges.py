"""Edges measured: what attribution over all of them costs, beside plain passes and beside other libraries.

    python benchmarks/edges.py             everything (about an hour on two cores; other libraries are installed)
    python benchmarks/edges.py eap         EAP over 32,491 edges of a GPT-2-small-shaped model
    python benchmarks/edges.py peers       the same by TransformerLens and AutoCircuit
    python benchmarks/edges.py memory      a step of node pruning beside a step of edge pruning
    python benchmarks/edges.py sizes       scoring circuits at MIB's ten sizes
    python benchmarks/edges.py smollm2     EAP over all edges of SmolLM2

Times are medians of runs taken in turn in one process; each peak of memory is of a process of its own.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import _peers
import torch
from _measure import in_turn, own_peak, peaks, plain_pass
from _record import write
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

from subcircuit import load, task
from subcircuit.edge_gradients import edge_attribution
from subcircuit.edge_tables import best, connected
from subcircuit.edges import rewired_logits, writer_sites
from subcircuit.intervention import Reference, acting, masked_logits
from subcircuit.methods._edge_search import EdgeSearch
from subcircuit.methods._edge_study import EdgeStudy
from subcircuit.methods._node_study import NodeStudy
from subcircuit.methods._search import Search
from subcircuit.methods.edge_pruning import EdgePruning
from subcircuit.methods.node_pruning import NodePruning
from subcircuit.metrics import logit_difference
from subcircuit.progress import silent
from subcircuit.sites import Kind
from subcircuit.subject import Prompts, Subject
from subcircuit.tasks._base import Pairs
from subcircuit.wiring import Wiring

PAIRS, TOKENS = 32, 16
SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of MIB
MODES = ("plain", "eap", "smollm2-plain", "smollm2-eap", "node-step", "edge-step")


def gpt2_shaped() -> tuple[Subject, Pairs]:
    """A random model of GPT-2 small's shape, and random prompts."""
    torch.manual_seed(0)
    subject = Subject(GPT2LMHeadModel(GPT2Config()), name="gpt2-shaped")
    ids = torch.randint(1000, 50000, (2, PAIRS, TOKENS))
    real, at = torch.ones(PAIRS, TOKENS, dtype=torch.bool), torch.full((PAIRS,), TOKENS - 1)
    answers = torch.randint(1000, 50000, (2, PAIRS, 1))
    return subject, Pairs(Prompts(ids[0], real, at), Prompts(ids[1], real, at), answers[0], answers[1])


def ioi() -> tuple[Subject, Pairs]:
    subject = load("smollm2-135m")
    return subject, task("ioi").pairs(subject.tokenizer, PAIRS, split="train")


def eap(subject: Subject, pairs: Pairs) -> torch.Tensor:
    """EAP from scratch: the reference run, the clean run and its gradients, every score."""
    reference = Reference(subject, "corrupt", pairs.clean, pairs.corrupt, writer_sites(subject))
    return edge_attribution(subject, Wiring.of(subject.layout), pairs, reference, path="clean")


def time_of(make: Callable[[], tuple[Subject, Pairs]], rounds: int) -> dict[str, Any]:
    subject, pairs = make()
    found = in_turn({"plain": plain_pass(subject, pairs.clean), "eap": lambda: eap(subject, pairs)}, rounds)
    wiring = Wiring.of(subject.layout)
    return found | {"edges": int(wiring.allowed.sum()), "pairs": len(pairs), "tokens": pairs.clean.ids.numel()}


def sizes(rounds: int) -> dict[str, Any]:
    """Ten nested circuits scored, over one plain forward pass of the same prompts; by nodes and by edges."""
    subject, pairs = ioi()
    wiring, clean = Wiring.of(subject.layout), pairs.clean
    found = {}
    for name in ("nodes", "edges"):
        sites = writer_sites(subject) if name == "edges" else acting(subject.sites(Kind.HEAD, Kind.MLP))
        reference = Reference(subject, "corrupt", clean, pairs.corrupt, sites, cache_bytes=4 << 30)
        ranks = torch.rand(wiring.allowed.shape, generator=torch.Generator().manual_seed(0))
        nodes = {s: torch.rand(subject.units(s.kind)) for s in subject.sites(Kind.HEAD, Kind.MLP)}

        def edges_scored(ranks: torch.Tensor = ranks, reference: Reference = reference) -> None:
            for size in SIZES:
                kept = connected(wiring, best(wiring, ranks, int(size * int(wiring.allowed.sum()))))
                logits = rewired_logits(subject, wiring, clean, kept.float(), reference)
                logit_difference(logits, pairs.right, pairs.wrong).mean()

        def nodes_scored(nodes: dict[Any, torch.Tensor] = nodes, reference: Reference = reference) -> None:
            for size in SIZES:
                mask = {site: (value < size).float() for site, value in nodes.items()}
                logits = masked_logits(subject, clean, mask, reference)
                logit_difference(logits, pairs.right, pairs.wrong).mean()

        scored = edges_scored if name == "edges" else nodes_scored
        found[name] = in_turn({"plain": lambda: _forward(subject, clean), "ten sizes": scored}, rounds)
    return found


@torch.no_grad()
def _forward(subject: Subject, prompts: Prompts) -> None:
    subject.logits(prompts)


def peers() -> dict[str, Any]:
    """The same scores by other libraries, each in an environment of its own; ours between their runs."""
    subject, pairs = gpt2_shaped()
    wiring = Wiring.of(subject.layout)
    start = perf_counter()
    ours = eap(subject, pairs)
    found: dict[str, Any] = {"subcircuit": {"seconds": perf_counter() - start, "pairs": PAIRS}}
    with tempfile.TemporaryDirectory() as folder:
        subject.model.save_pretrained(folder)
        tensors = {"clean": pairs.clean.ids, "corrupt": pairs.corrupt.ids, "right": pairs.right, "wrong": pairs.wrong}
        save_file(tensors, Path(folder) / "pairs.safetensors")
        for peer, script in (("auto-circuit", "_peer_auto_circuit.py"), ("transformer-lens", "_peer_lens.py")):
            theirs = _peers.run(peer, script, folder)
            scores = theirs.pop("scores")
            few = Pairs(*(getattr(pairs, name)[: theirs["pairs"]] for name in ("clean", "corrupt", "right", "wrong")))
            start = perf_counter()
            same = eap(subject, few) if len(few) < PAIRS else ours
            seconds = perf_counter() - start if len(few) < PAIRS else found["subcircuit"]["seconds"]
            found[peer] = theirs | {
                "pins": _peers.PINS[peer],
                "edges": len(scores),
                "spearman": _spearman(wiring, same, scores),
                "ours_on_the_same_pairs": seconds,
                "times_slower": theirs["seconds"] / seconds,
            }
            print(json.dumps(found[peer]), flush=True)
    return found


def _spearman(wiring: Wiring, ours: torch.Tensor, theirs: dict[str, float]) -> float:
    """Rank correlation over the edges both have."""
    pairs = [(float(ours[wiring.parse(name)]), value) for name, value in theirs.items()]
    ranks = torch.tensor(pairs, dtype=torch.float64).argsort(0).argsort(0).double()
    return float(torch.corrcoef(ranks.T)[0, 1])


def peak(mode: str) -> None:
    """Three passes or steps in this process; prints its peak memory and the size of the model's weights, in bytes."""
    subject, pairs = gpt2_shaped() if mode in ("plain", "eap") else ioi()
    weights = sum(weight.numel() * weight.itemsize for weight in subject.model.parameters())
    if mode.endswith("step"):
        _three_steps(mode, subject, pairs)
    else:
        run = plain_pass(subject, pairs.clean) if mode.endswith("plain") else lambda: eap(subject, pairs)
        for _ in range(3):
            run()
    print(json.dumps({"peak": own_peak(), "weights": weights}))


def _three_steps(mode: str, subject: Subject, pairs: Pairs) -> None:
    """Optimisation steps over all pairs, from all open, references recomputed."""
    few: dict[str, Any] = {
        "pairs": PAIRS,
        "batch": PAIRS,
        "validation": 1,
        "warm_start": 0,
        "cache_gb": 0.0,
        "steps": 3,
    }
    if mode == "node-step":
        nodes = NodePruning(**few)
        Search(nodes.plan(), NodeStudy("node-pruning", nodes, subject, task("ioi"), pairs), silent).run(0, nodes.kl)
    else:
        edges = EdgePruning(**few)
        EdgeSearch(edges, EdgeStudy("edge-pruning", edges, subject, task("ioi"), pairs), silent).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("all", "eap", "peers", "memory", "sizes", "smollm2", "peak")
    parser.add_argument("part", nargs="?", choices=parts, default="all")
    parser.add_argument("--mode", choices=MODES)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    measured: dict[str, Callable[[], dict[str, Any]]] = {
        "eap": lambda: {"time": time_of(gpt2_shaped, args.rounds), "memory": peaks(__file__, ["plain", "eap"])},
        "smollm2": lambda: {
            "time": time_of(ioi, args.rounds),
            "memory": peaks(__file__, ["smollm2-plain", "smollm2-eap"], base="smollm2-plain"),
        },
        "memory": lambda: peaks(__file__, ["smollm2-plain", "node-step", "edge-step"], base="smollm2-plain"),
        "sizes": lambda: sizes(args.rounds),
        "peers": peers,
    }
    if args.part == "peak":
        return peak(args.mode)
    for part, measure in measured.items():
        if args.part in ("all", part):
            figures = measure()
            print(write("edges", {part: figures}), json.dumps(figures, indent=1), flush=True)


if __name__ == "__main__":
    main()
