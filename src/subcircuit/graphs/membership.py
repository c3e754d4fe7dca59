"""Which candidates belong to a circuit, told from the graph they are in: a small graph network (needs the extra `gnn`).

Two layers of GATv2 (Brody et al. 2021) whose attention also sees the edge: the effect's share and sign, the layers and
the positions it spans. A node's features say where it is, how strong it is and what its direct effect on the target is,
never which feature it is, so that what is learnt on some prompts can be said of others. Of each node the strongest
inputs and outputs are edges, in both directions. Influence is an input too, and a straight line leads from the inputs
to the answer: a network that learns nothing else ranks as influence does.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, elu

from subcircuit.errors import DataError, MissingExtra
from subcircuit.graphs.candidates import Candidates
from subcircuit.graphs.influence import TINY, node_influence, normalised

if TYPE_CHECKING:
    from torch_geometric.data import Data

__all__ = ["Membership", "as_data", "require_gnn"]

WIDTH = 32
HEADS = 4
STRONGEST = 12  # inputs, and outputs, of a node that become edges
EPOCHS = 120
RATE = 5e-3
DECAY = 1e-2
INPUTS = 14  # features of a node
SPANS = 6  # features of an edge


def require_gnn() -> Any:
    """torch-geometric. Raises MissingExtra, which names what installs it."""
    try:
        import torch_geometric
        import torch_geometric.nn
    except ImportError as error:
        raise MissingExtra("a graph network", "gnn") from error
    return torch_geometric


class Membership(nn.Module):
    """The network. `fit` makes one of graphs whose circuits are known."""

    def __init__(self) -> None:
        super().__init__()
        attention = require_gnn().nn.GATv2Conv
        self.first = nn.Linear(INPUTS, WIDTH)
        self.layers = nn.ModuleList(
            attention(WIDTH, WIDTH // HEADS, heads=HEADS, edge_dim=SPANS, add_self_loops=False) for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.last = nn.Linear(WIDTH, 1)
        self.straight = nn.Linear(INPUTS, 1, bias=False)

    def forward(self, data: "Data") -> Float[Tensor, " node"]:
        """The log odds of every node."""
        hidden = elu(self.first(data.x))
        for attention, norm in zip(self.layers, self.norms, strict=True):
            hidden = norm(hidden + elu(attention(hidden, data.edge_index, data.edge_attr)))
        odds: Tensor = self.last(hidden) + self.straight(data.x)
        return odds[:, 0]

    @classmethod
    def fit(cls, known: Sequence[tuple[Candidates, Bool[Tensor, " candidate"]]], *, seed: int = 0) -> Self:
        """Learn from graphs and what a search kept of each. Raises DataError where it kept all or nothing of all."""
        kept = torch.cat([truth for _, truth in known]).float()
        if not 0 < kept.sum() < len(kept):
            raise DataError(
                f"the searches kept {int(kept.sum())} of {len(kept)} candidates, which tells nothing apart",
                "give another --goal, or --order influence",
            )
        graphs, rarity = [as_data(found) for found, _ in known], (len(kept) - kept.sum()) / kept.sum()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = cls()
            optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
            for _ in range(EPOCHS):
                optimiser.zero_grad()
                odds = torch.cat([network(data)[: len(truth)] for data, (_, truth) in zip(graphs, known, strict=True)])
                binary_cross_entropy_with_logits(odds, kept, pos_weight=rarity).backward()
                optimiser.step()
        return network.eval()

    @torch.no_grad()
    def chances(self, found: Candidates) -> Float[Tensor, " candidate"]:
        """How likely each candidate is a member, by these weights: 0 to 1."""
        odds: Tensor = self(as_data(found))
        return odds[: len(found)].sigmoid()


def as_data(found: Candidates) -> "Data":
    """The graph of candidates as the network sees it."""
    shares = normalised(found.graph.adjacency)
    edges = _edges(shares, node_influence(found.graph) + found.graph.start)
    return require_gnn().data.Data(x=_nodes(found, shares), edge_index=edges, edge_attr=_spans(found, shares, edges))


def _nodes(found: Candidates, shares: Float[Tensor, "node node"]) -> Float[Tensor, "node input"]:
    graph, count = found.graph, len(found)
    influence, activation, signs = node_influence(graph), torch.zeros(len(graph)), graph.adjacency.sign()
    influence[:count] = found.influence
    activation[:count] = found.activation / found.activation.max().clamp(min=TINY)
    rank = torch.zeros(len(graph)).scatter(0, found.influence.argsort(), torch.arange(count) / max(count - 1, 1))
    layer, position = graph.places.float().unbind(1)
    last, target = max(found.positions - 1, 1), graph.target_nodes.start
    kinds = [_within(len(graph), part) for part in (graph.feature_nodes, graph.error_nodes, graph.token_nodes)]
    columns = [
        *kinds,
        (influence / influence.max().clamp(min=TINY) + 1e-6).log10() / 3 + 1,  # about -1 to 1
        rank,
        activation,
        layer / graph.layers,
        position / last,
        (layer + 1) / (graph.layers + 1) * position / last,
        shares[target].sqrt(),
        shares[target].sqrt() * signs[target],
        shares[:, graph.error_nodes].sum(1),
        shares[:, graph.token_nodes].sum(1),
        (shares > 1 / STRONGEST**2).sum(0).float().log1p() / 5,  # whom it matters to
    ]
    return torch.stack(columns, 1)


def _within(size: int, part: slice) -> Float[Tensor, " node"]:
    found = torch.zeros(size)
    found[part] = 1
    return found


def _edges(shares: Float[Tensor, "target source"], weights: Float[Tensor, " target"]) -> Int[Tensor, "2 edge"]:
    """Of each node the strongest inputs, and the outputs by which most influence passes, both ways."""
    most = min(STRONGEST, len(shares))
    wanted = torch.zeros_like(shares, dtype=torch.bool)
    wanted.scatter_(1, shares.topk(most, dim=1).indices, True)
    wanted.scatter_(0, (shares * weights[:, None]).topk(most, dim=0).indices, True)
    targets, sources = (wanted & (shares > 0)).nonzero().unbind(1)
    return torch.stack([torch.cat([sources, targets]), torch.cat([targets, sources])])


def _spans(found: Candidates, shares: Tensor, edges: Int[Tensor, "2 edge"]) -> Float[Tensor, "edge span"]:
    places, half = found.graph.places.float(), edges.shape[1] // 2
    (first, second), forward = edges, torch.arange(edges.shape[1]) < half
    targets, sources = torch.where(forward, second, first), torch.where(forward, first, second)
    layers, positions = (places[targets] - places[sources]).unbind(1)
    share = shares[targets, sources]
    columns = [
        share.sqrt(),
        share.sqrt() * found.graph.adjacency[targets, sources].sign(),
        (share + 1e-6).log10() / 3 + 1,
        layers / found.graph.layers,
        positions / max(found.positions - 1, 1),
        forward.float() * 2 - 1,
    ]
    return torch.stack(columns, 1)
