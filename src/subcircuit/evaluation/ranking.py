"""The nodes of a circuit as one ranking: the finest gated node of every place where masks act.

With heads and neurons gated these are the items; a gated branch above them is open as long as one of them is. Scores
that are gates (learned masks) close a whole line when a parent's is closed, so a node is worth the least score along
its line. Scores that are effects of single nodes (attribution, patching) stand for themselves.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.circuit import Circuit
from subcircuit.evaluation.panel import Panel
from subcircuit.evaluation.setting import Setting
from subcircuit.intervention import ACTING
from subcircuit.layout import spread
from subcircuit.scores import PerPrompt
from subcircuit.sites import PARENT, Site

__all__ = ["NodeRanking", "Ranked", "effects", "finest"]


class Ranked(ABC):
    """Items of a panel's circuit, any choice of which is run once; all and none of them are known already."""

    def __init__(self, panel: Panel) -> None:
        self.ends, self.signed = (panel.whole, panel.empty), effects(panel.circuit)
        self.setting = Setting.of(panel.circuit, "outside the top of a ranking")
        self._known: dict[bytes, PerPrompt] = {}

    def run(self, chosen: Bool[Tensor, " item"]) -> PerPrompt:
        """Every metric with only the chosen items on, prompt by prompt."""
        full, empty = self.ends
        if chosen.all():
            return full
        if not chosen.any():
            return empty
        key = chosen.numpy().tobytes()
        if key not in self._known:
            self._known[key] = self._judged(chosen)
        return self._known[key]

    @abstractmethod
    def _judged(self, chosen: Bool[Tensor, " item"]) -> PerPrompt:
        """Run a choice that is neither all nor nothing."""


class NodeRanking(Ranked):
    """The finest nodes of a circuit."""

    def __init__(self, panel: Panel) -> None:
        super().__init__(panel)
        circuit = panel.circuit
        self.panel, self.sites = panel, finest(circuit)
        kinds = dict.fromkeys(str(site.kind) for site in self.sites)
        self.setting = self.setting.model_copy(update={"component": ",".join(kinds)})
        self.scores = torch.cat([circuit.scores[site] if self.signed else _line(circuit, site) for site in self.sites])

    def connected(self, chosen: Bool[Tensor, " item"]) -> Bool[Tensor, " item"]:
        """Nodes write to the residual stream, from which every later layer reads: all of them are connected."""
        return chosen

    def _judged(self, chosen: Bool[Tensor, " item"]) -> PerPrompt:
        sizes = [len(self.panel.circuit.kept[site]) for site in self.sites]
        return self.panel.run(f"top {int(chosen.sum())} nodes", dict(zip(self.sites, chosen.split(sizes), strict=True)))


def finest(circuit: Circuit) -> list[Site]:
    """For every place where masks act, the finest gate of the circuit that closes it; layer by layer."""
    kinds = {site.kind for site in circuit.kept}
    lines = ([kind for kind in line if kind in kinds] for line in ACTING.values())
    wanted = {line[-1] for line in lines if line}
    return [site for site in sorted(circuit.kept) if site.kind in wanted]


def effects(circuit: Circuit) -> bool:
    """Whether scores are signed effects: methods that measure effects let one choose how to rank them."""
    return "rank" in circuit.origin.settings


def _line(circuit: Circuit, site: Site) -> Float[Tensor, " unit"]:
    """The least score of each unit and of its parents, as far as they have one."""
    least, kind = circuit.scores[site].float(), site.kind
    while kind in PARENT:
        kind = PARENT[kind]
        above = circuit.scores.get(Site(site.layer, kind))
        if above is not None:
            least = least.minimum(spread(above.float(), len(least)))
    return least
