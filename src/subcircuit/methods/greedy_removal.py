"""Greedy removal: walk the nodes, or the edges, from output to input, and remove each whose loss KL hardly notices.

After ACDC (Conmy et al. 2023, arXiv 2304.14997), whose walk is the one over edges: what is tried goes if
KL(full || circuit) rises by less than a threshold, tau. The circuit depends on the order of the walk, so that is an
option: by depth, or least attributed first.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import torch
from torch import Tensor

from subcircuit.circuit import Circuit, tidy
from subcircuit.errors import UnknownName, UsageError
from subcircuit.finishing import Validation
from subcircuit.gradients import attribution, coarsen
from subcircuit.methods._edge_study import EdgeStudy
from subcircuit.methods._edge_walk import EdgeWalk
from subcircuit.methods._study import Study, check, require, require_finite, require_room
from subcircuit.progress import Progress, silent
from subcircuit.sites import Node, Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs, Task

__all__ = ["GreedyRemoval"]

Order = Literal["depth", "attribution"]

# from a layer's output to its input, and from wholes to their parts
WALK = ("block", "mlp", "mlp_out", "neuron", "attn", "head", "channel", "kv", "v", "k", "q")
JOINED = "head,mlp"  # what edges join
STEPS = 5  # of the integrated gradients that an order by attribution takes


@dataclass(frozen=True)
class GreedyRemoval:
    """Remove nodes one by one, each if the output distribution hardly changes."""

    threshold: Annotated[float, "tau: what is tried goes if KL(full || circuit) rises by less, in nats"] = 0.01
    order: Annotated[str, "of the walk: depth (output to input) or attribution (smallest first)"] = "depth"
    edges: Annotated[bool, "remove edges, from output to input, as ACDC"] = False
    kinds: Annotated[str, "granularities; also attn, block, neuron, channel, mlp_out, q, k, v, kv"] = "head,mlp"
    pairs: Annotated[int, "discovery prompt pairs, run anew for every node or edge"] = 32
    validation: Annotated[int, "validation prompt pairs, on which the circuit's KL is reported"] = 64
    reference: Annotated[str, "what fills a closed node or edge: corrupt, mean, zero or resample"] = "corrupt"
    limit: Annotated[int, "passes of one prompt, at most; a search that needs more is refused before it starts"] = 50000
    batch: Annotated[int, "prompts in a pass"] = 32
    seed: Annotated[int, "seed of the prompts"] = 0
    cache_gb: Annotated[float, "reference activations kept in memory, at most; what does not fit is recomputed"] = 2.0

    def find(
        self,
        subject: Subject,
        task: Task,
        pairs: Pairs | None = None,
        *,
        folder: Path | None = None,
        progress: Progress = silent,
    ) -> Circuit:
        """What could not be removed; scores are the rise of KL when each was tried, 0 where it was not.

        Raises UsageError for more passes than the limit, UnsupportedModel for the edges of an encoder, NumericalError
        when KL is not finite, Interrupted when stopped while a `folder` keeps the state.
        """
        if self.edges:
            return self._edges(EdgeStudy("greedy-removal", self, subject, task, pairs, folder), progress)
        study = Study("greedy-removal", self, subject, task, pairs, folder)
        nodes = sum(subject.units(site.kind) for site in study.sites)
        require_room(nodes * len(study.pairs), self.limit, f"{nodes:,} nodes, {len(study.pairs)} pairs")
        with study.resumable():
            walk = Walk(study, self.order, progress)
            kept, scores = walk.run(self.threshold)
            result = {"kl": study.kl(kept), "passes": study.memory.facts["trials"] * len(study.pairs)}
            return Circuit(scores, kept, study.origin(result))

    def _edges(self, study: EdgeStudy, progress: Progress) -> Circuit:
        edges = int(study.wiring.allowed.sum())
        require_room(edges * len(study.pairs), self.limit, f"{edges:,} edges, {len(study.pairs)} pairs")
        with study.resumable():
            kept, scores = EdgeWalk(study, self.order, STEPS, progress).run(self.threshold)
            return study.circuit(scores, kept, passes=study.memory.facts["trials"] * len(study.pairs))

    def __post_init__(self) -> None:
        check(self)
        if self.edges and self.kinds != JOINED:
            raise UsageError(f"edges join heads and MLPs, not {self.kinds}", f"leave kinds at {JOINED}")
        if self.order not in get_args(Order):
            raise UnknownName("order", self.order, get_args(Order))
        require(self, "threshold", 0 < self.threshold < float("inf"), "a number of nats above 0")
        require(self, "limit", self.limit >= 1, "at least 1")


class Walk:
    """The nodes in their order, what is left of the model, and how far the walk has come."""

    def __init__(self, study: Study, order: str, tell: Progress) -> None:
        self.study, self.tell = study, tell
        self.reference = study.reference(study.pairs)
        self.discovery = Validation(study.subject, study.pairs, self.reference, study.settings.batch)
        if not study.memory.tensors:
            self._start(order)

    def run(self, threshold: float) -> tuple[dict[Site, Tensor], dict[Site, Tensor]]:
        """Try every node that is still there; returns what is kept, and by how much KL rose when each was tried."""
        memory, order = self.study.memory, self._order()
        kept = {site: memory.tensors[f"{site} kept"].bool() for site in self.study.sites}
        scores = {site: memory.tensors[str(site)].clone() for site in self.study.sites}
        kl, trials = memory.facts["kl"], memory.facts["trials"]
        for done in range(memory.facts["done"], len(order)):
            node = order[done]
            if kept[node.site][node.unit]:
                trial = _without(kept, node)
                after = self.discovery.kl(trial)
                scores[node.site][node.unit] = after - kl
                require_finite(scores[node.site], node)
                kept, kl = (trial, after) if after - kl < threshold else (kept, kl)
                trials += 1
                self._keep(kept, scores, done=done + 1, kl=kl, trials=trials)
            self.tell("removal", done + 1, len(order), kl=kl)
        return kept, scores

    def _start(self, order: str) -> None:
        """Everything is kept, nothing tried."""
        study = self.study
        nodes = [Node(site, unit) for site in study.sites for unit in range(study.subject.units(site.kind))]
        if order == "depth":
            places = sorted(range(len(nodes)), key=lambda at: _depth(nodes[at]))
        else:
            found = attribution(
                study.subject,
                study.pairs,
                self.reference,
                objective="kl",
                steps=STEPS,
                batch_size=study.settings.batch,
            )
            scores = coarsen(study.subject, found, study.kinds)
            places = torch.cat([scores[site].abs() for site in study.sites]).argsort(stable=True).tolist()
        kept = {site: torch.ones(study.subject.units(site.kind), dtype=torch.bool) for site in study.sites}
        study.keep({"order": torch.tensor(places)})
        self._keep(kept, study.empty(), done=0, kl=0.0, trials=0)

    def _order(self) -> list[Node]:
        sites = self.study.sites
        nodes = [Node(site, unit) for site in sites for unit in range(self.study.subject.units(site.kind))]
        return [nodes[at] for at in self.study.memory.tensors["order"].tolist()]

    def _keep(self, kept: dict[Site, Tensor], scores: dict[Site, Tensor], **facts: float) -> None:
        state = {f"{site} kept": truth for site, truth in kept.items()}
        self.study.keep(state | {str(site): score for site, score in scores.items()}, **facts)


def _depth(node: Node) -> tuple[int, int, int]:
    return -node.site.layer, WALK.index(node.site.kind), node.unit


def _without(kept: dict[Site, Tensor], node: Node) -> dict[Site, Tensor]:
    """With one node less, and all that hangs on it."""
    trial = dict(kept)
    trial[node.site] = kept[node.site].index_fill(0, torch.tensor(node.unit), False)
    return tidy(trial)
