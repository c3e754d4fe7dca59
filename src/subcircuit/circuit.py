"""A circuit: which nodes a behaviour needs, how much, and where that claim comes from.

On disk it is two files: `circuit.json` (origin, sizes, the kept nodes by name) and `scores.safetensors`.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from subcircuit.drawing import draw
from subcircuit.edge_tables import Edges
from subcircuit.errors import DataError, UsageError
from subcircuit.files import atomically, save_record
from subcircuit.layout import spread
from subcircuit.records import CircuitFile, Origin, Size, WiringFile
from subcircuit.sharing import Shared
from subcircuit.sites import PARENT, Kind, Node, Site
from subcircuit.wiring import Wiring

__all__ = ["EDGE", "Circuit", "CircuitFile", "Kept", "Origin", "Size", "matched", "sizes", "tidy"]

Kept = Mapping[Site, Bool[Tensor, " unit"]]
EDGE = "edge"  # the name of edges among kinds


@dataclass(frozen=True)
class Circuit(Shared):
    """The result of every method.

    `scores`: higher = more needed, comparable within a kind. `kept`: the circuit itself; parents without children and
    children without parents are closed. `edges`: of methods that choose edges; then `kept` are the nodes they join.
    `positions`: of methods that choose nodes at some positions; then `kept` are those that are chosen anywhere.
    """

    scores: Mapping[Site, Float[Tensor, " unit"]]
    kept: Kept
    origin: Origin
    edges: Edges | None = None
    positions: Mapping[str, Kept] | None = None  # by part of the positions

    def __repr__(self) -> str:
        kept = ", ".join(f"{size.kept}/{size.total} {kind}" for kind, size in self.sizes.items())
        return f"Circuit({self.origin.method} on {self.origin.task}, {self.origin.model}: {kept})"

    def _repr_html_(self) -> str:
        """What notebooks show."""
        return draw(self.file())

    @property
    def sizes(self) -> dict[str, Size]:
        """Nodes kept per granularity, and edges where the circuit has them."""
        found: dict[str, Size] = dict(sizes(self.kept).items())
        if self.edges is not None:
            found[EDGE] = Size(kept=int(self.edges.kept.sum()), total=int(self.edges.wiring.allowed.sum()))
        return found

    def nodes(self, kind: Kind) -> list[Node]:
        """The kept nodes of a kind, layer by layer."""
        sites = sorted(site for site in self.kept if site.kind is kind)
        return [Node(site, int(unit)) for site in sites for unit in self.kept[site].nonzero()[:, 0]]

    def mask(self) -> dict[Site, Float[Tensor, " unit"]]:
        """The hard mask to run: 1 where a node is kept."""
        return {site: kept.float() for site, kept in self.kept.items()}

    def with_origin(self, origin: Origin) -> "Circuit":
        """The same circuit with another origin."""
        return replace(self, origin=origin)

    def file(self) -> CircuitFile:
        """What `circuit.json` holds."""
        kinds = dict.fromkeys(site.kind for site in self.kept)
        return CircuitFile(
            origin=self.origin,
            layers=1 + max(site.layer for site in self.kept),
            units={kind: next(len(v) for site, v in self.kept.items() if site.kind is kind) for kind in kinds},
            sizes={str(kind): size for kind, size in self.sizes.items()},
            nodes={kind: [str(node) for node in self.nodes(kind)] for kind in kinds},
            wiring=WiringFile(**asdict(self.edges.wiring)) if self.edges else None,
            edges=list(self.edges.names()) if self.edges else None,
            positions={part: _names(kept) for part, kept in self.positions.items()} if self.positions else None,
        )

    def save(self, folder: str | Path) -> None:
        """Write `circuit.json` and `scores.safetensors`; each appears whole or not at all. Raises ResourceError."""
        folder = Path(folder)
        scores: dict[str, Tensor] = {str(site): score for site, score in self.scores.items()}
        if self.edges is not None:
            scores[EDGE] = self.edges.scores
        scores = {name: score.detach().float().cpu().contiguous() for name, score in scores.items()}
        atomically(folder / "scores.safetensors", lambda to: save_file(scores, to))
        save_record(self.file(), folder / "circuit.json")

    @classmethod
    def load(cls, folder: str | Path) -> "Circuit":
        """Read a saved circuit. Raises DataError when a file is missing, broken or of another schema version."""
        folder = Path(folder)
        file = CircuitFile.read(folder)
        path = folder / "scores.safetensors"
        if not path.exists():
            raise DataError(f"{path} is missing", "find the circuit again, or copy the whole run folder")
        try:
            tensors = load_file(path)
            by_edge = tensors.pop(EDGE, None)
            scores = {Site.parse(name): score for name, score in tensors.items()}
        except (SafetensorError, UsageError) as error:
            raise DataError(f"{path} holds no scores: {error}", "find the circuit again") from error
        try:
            kept, edges = _kept(file, [name for names in file.nodes.values() for name in names]), _edges(file, by_edge)
            at = {part: _kept(file, names) for part, names in (file.positions or {}).items()} or None
        except UsageError as error:
            raise DataError(f"{folder / 'circuit.json'}: {error.message}", "find the circuit again") from error
        return cls(scores, kept, file.origin, edges, at)


def sizes(kept: Kept) -> dict[Kind, Size]:
    """Kept and all nodes per kind."""
    counts: dict[Kind, list[int]] = defaultdict(lambda: [0, 0])
    for site, truth in kept.items():
        counts[site.kind][0] += int(truth.sum())
        counts[site.kind][1] += len(truth)
    return {kind: Size(kept=kept, total=total) for kind, (kept, total) in counts.items()}


def tidy(kept: Kept) -> dict[Site, Bool[Tensor, " unit"]]:
    """Close children of closed parents and parents that have nothing left, in every layer; logits stay the same.

    Kinds without gates are taken to be open. With MLP_OUT the logits may change by what a branch adds when all of its
    units are off and its outputs are not: under a zero reference, its bias.
    """
    clean = {site: truth.clone() for site, truth in kept.items()}
    for layer in {site.layer for site in clean}:
        here = {site.kind: clean[site] for site in clean if site.layer == layer}
        for parent in (up for kind in tuple(here) for up in _ancestors(kind)):
            here.setdefault(parent, torch.ones(1, dtype=torch.bool))
        links = [(parent, child) for parent, child in _LINKS if child in here]
        for parent, child in links:  # top down
            here[child] &= spread(here[parent], len(here[child]))
        for parent, child in reversed(links):  # bottom up; a branch dies with any of its essential children
            if (parent, child) not in _OPTIONAL:
                alive = here[child].view(len(here[parent]), -1).any(-1)
                here[parent] &= alive if parent is not Kind.BLOCK else _branches(here)
        for parent, child in links:
            here[child] &= spread(here[parent], len(here[child]))
    return clean


def matched(kept: Kept, scores: Mapping[Site, Float[Tensor, " unit"]]) -> dict[Site, Bool[Tensor, " unit"]]:
    """The circuit of the same size per kind that `scores` would choose: the control of equal size.

    Parents are chosen first; every open parent gets its best child, the rest of a kind go to the best children of open
    parents. With scores drawn at random this is a random circuit of the same size.
    """
    chosen: dict[Site, Tensor] = {}
    wanted = {kind: size.kept for kind, size in sizes(kept).items()}
    order = dict.fromkeys([Kind.BLOCK, *(child for _, child in _LINKS), *Kind])
    for kind in (kind for kind in order if kind in wanted):
        sites = sorted(site for site in kept if site.kind is kind)
        score = torch.stack([scores[site].float() for site in sites])
        open_, forced = _candidates(kind, sites, chosen, score, wanted)
        value = score.masked_fill(~open_, -torch.inf).masked_fill(forced, torch.inf).flatten()
        best = value.topk(min(wanted[kind], int(open_.sum()))).indices
        picked = torch.zeros(len(value), dtype=torch.bool).index_fill(0, best, True).view_as(score)
        chosen.update(zip(sites, picked, strict=True))
    return tidy(chosen)


# parent, child: in the order in which closing runs down, attention first
_LINKS = (
    (Kind.BLOCK, Kind.ATTN),
    (Kind.ATTN, Kind.HEAD),
    (Kind.ATTN, Kind.KV),
    (Kind.HEAD, Kind.CHANNEL),
    (Kind.BLOCK, Kind.MLP),
    (Kind.MLP, Kind.NEURON),
    (Kind.MLP, Kind.MLP_OUT),
)
_ATTENTION, _MLP = (Kind.ATTN, Kind.HEAD, Kind.CHANNEL), (Kind.MLP, Kind.NEURON, Kind.MLP_OUT)
_OPTIONAL = ((Kind.ATTN, Kind.KV),)  # with every key and value off, the queries still are the circuit's own


def _names(kept: Kept) -> list[str]:
    return [str(Node(site, int(unit))) for site in sorted(kept) for unit in kept[site].nonzero()[:, 0]]


def _kept(file: CircuitFile, names: Sequence[str]) -> dict[Site, Bool[Tensor, " unit"]]:
    """Nodes of the file as masks. Raises UsageError for a name that is none, or outside the file's own sizes."""
    sites = [Site.parse(f"{layer}.{kind}") for kind in file.units for layer in range(file.layers)]
    kept = {site: torch.zeros(file.units[site.kind], dtype=torch.bool) for site in sites}
    for node in map(Node.parse, names):
        if node.site not in kept or node.unit >= len(kept[node.site]):
            raise UsageError(f"node {node} is outside the circuit's own sizes")
        kept[node.site][node.unit] = True
    return kept


def _edges(file: CircuitFile, scores: Tensor | None) -> Edges | None:
    """The file's edges. Raises UsageError for a name that is none."""
    if file.edges is None or file.wiring is None:
        return None
    wiring = Wiring(**file.wiring.model_dump())
    kept = torch.zeros_like(wiring.allowed)
    for name in file.edges:
        kept[wiring.parse(name)] = True
    if scores is None or scores.shape != kept.shape:
        raise UsageError(
            f"its edges have no scores: a table of {len(wiring.readers)} by {len(wiring.writers)} is expected"
        )
    return Edges(wiring, scores, kept)


def _ancestors(kind: Kind) -> Iterator[Kind]:
    """Its parent, its parent's parent, and so on."""
    while kind in PARENT:
        kind = PARENT[kind]
        yield kind


def _branches(here: Mapping[Kind, Tensor]) -> Tensor:
    alive = [here[kind] for kind in (Kind.ATTN, Kind.MLP) if kind in here]
    return torch.stack(alive).any(0) if len(alive) == 2 else torch.ones(1, dtype=torch.bool)


def _candidates(
    kind: Kind, sites: list[Site], chosen: Mapping[Site, Tensor], score: Tensor, wanted: Mapping[Kind, int]
) -> tuple[Tensor, Tensor]:
    """Which units may be chosen, and which must be: the best child of each open parent."""
    parent = next((up for up in _ancestors(kind) if up in wanted), None)
    if parent is None:
        return torch.ones_like(score, dtype=torch.bool), torch.zeros_like(score, dtype=torch.bool)
    up = torch.stack([chosen[Site(site.layer, parent)] for site in sites])
    open_ = up.repeat_interleave(score.shape[1] // up.shape[1], 1)
    grouped = score.view(*up.shape, -1)
    best = torch.zeros_like(grouped, dtype=torch.bool).scatter_(-1, grouped.argmax(-1, keepdim=True), True)
    forced = best.view_as(score) & open_
    if (parent, kind) in _OPTIONAL:
        forced = torch.zeros_like(forced)
    if parent is Kind.BLOCK:  # a block lives by either branch: only blocks without attention need their MLP
        forced = forced & ~_attends(chosen, sites) if kind in _MLP else torch.zeros_like(forced)
    return open_, forced


def _attends(chosen: Mapping[Site, Tensor], sites: Sequence[Site]) -> Bool[Tensor, "site 1"]:
    """Whether something of the attention branch has been chosen in each site's layer."""
    alive = {site.layer for site, truth in chosen.items() if site.kind in _ATTENTION and truth.any()}
    return torch.tensor([[site.layer in alive] for site in sites])
