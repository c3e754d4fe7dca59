"""Greedy removal of edges, as in ACDC: from the logits backwards, an edge goes if KL hardly rises without it."""

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit import metrics
from subcircuit.edge_gradients import edge_attribution
from subcircuit.edge_tables import connected
from subcircuit.edges import rewired_logits
from subcircuit.methods._edge_study import EdgeStudy, Table, Truth
from subcircuit.methods._study import require_finite
from subcircuit.progress import Progress

__all__ = ["EdgeWalk"]


class EdgeWalk:
    """The edges in their order, what is left of the graph, and how far the walk has come."""

    def __init__(self, study: EdgeStudy, order: str, steps: int, tell: Progress) -> None:
        """`steps`: of the integrated gradients that an order by attribution takes."""
        self.study, self.tell = study, tell
        self.reference = study.reference(study.pairs)
        self.full = self._run(study.wiring.allowed)
        if not study.memory.tensors:
            places = _depth(study.wiring.allowed) if order == "depth" else self._least(steps)
            nothing = torch.zeros(study.wiring.allowed.shape)
            study.keep({"order": places, "kept": study.wiring.allowed, "edge": nothing}, done=0, kl=0.0, trials=0)

    def run(self, threshold: float) -> tuple[Truth, Table]:
        """Try every edge that is still there; returns what is kept, and by how much KL rose when each was tried."""
        study, memory = self.study, self.study.memory
        order, kept, scores = (memory.tensors[name].clone() for name in ("order", "kept", "edge"))
        kl, trials = memory.facts["kl"], memory.facts["trials"]
        for done in range(memory.facts["done"], len(order)):
            reader, writer = order[done].tolist()
            if kept[reader, writer]:
                trial = kept.clone()
                trial[reader, writer] = False
                trial = connected(study.wiring, trial)  # what hangs on the edge goes with it
                after = self._kl(trial)
                scores[reader, writer] = after - kl
                require_finite(scores[reader, writer], study.wiring.name(reader, writer))
                kept, kl = (trial, after) if after - kl < threshold else (kept, kl)
                trials += 1
                study.keep({"kept": kept, "edge": scores}, done=done + 1, kl=kl, trials=trials)
            self.tell("removal", done + 1, len(order), kl=kl)
        return kept, scores

    def _kl(self, kept: Truth) -> float:
        return float(metrics.kl(self.full, self._run(kept)).mean())

    def _run(self, kept: Truth) -> Float[Tensor, "pair vocab"]:
        """The discovery prompts' logits with these edges open."""
        study, clean = self.study, self.study.pairs.clean
        size = study.settings.batch
        return rewired_logits(study.subject, study.wiring, clean, kept.float(), self.reference, batch_size=size)

    def _least(self, steps: int) -> Tensor:
        """Every edge, the least attributed first."""
        study = self.study
        scores = edge_attribution(
            study.subject,
            study.wiring,
            study.pairs,
            self.reference,
            objective="kl",
            path="inputs",
            steps=steps,
            batch_size=study.settings.batch,
        )
        edges = study.wiring.allowed.nonzero()
        return edges[scores[study.wiring.allowed].abs().argsort(stable=True)]


def _depth(allowed: Truth) -> Tensor:
    """Every edge, the last reader first, and of its writers the last first."""
    return allowed.nonzero().flip(0)
