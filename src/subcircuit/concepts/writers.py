"""Which heads and neurons write a concept: what each adds to the residual stream, along the concept's direction.

Up to the first layer after them all additions to a decoder's residual stream are a sum, so the shares of the embedding,
all heads, all neurons and the biases sum to the state's own coordinate along the direction.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.errors import UnsupportedModel
from subcircuit.prompts import Prompts
from subcircuit.sites import Kind, Node, Site
from subcircuit.subject import Subject

__all__ = ["Writers", "require_sums", "writers"]


@dataclass(frozen=True)
class Writers:
    """Shares of the coordinate `whole`; what neither heads nor neurons write, biases, is in none of them."""

    whole: float
    embedding: float
    nodes: dict[Node, float]

    def top(self, n: int, kind: Kind) -> list[tuple[Node, float]]:
        """The largest by magnitude."""
        mine = [(node, share) for node, share in self.nodes.items() if node.site.kind is kind]
        return sorted(mine, key=lambda pair: -abs(pair[1]))[:n]


def require_sums(subject: Subject) -> None:
    """Raises UnsupportedModel for a family that has norms after its branches, or between its layers."""
    family = subject.family
    if not family.causal or family.post_norms or not family.pre_norms:
        raise UnsupportedModel(
            f"{subject.name} has norms after its branches, so what a head writes is no sum over channels",
            "direct contributions are known for decoders with norms before their branches only",
        )


@torch.no_grad()
def writers(
    subject: Subject, prompts: Prompts, position: int, layer: int, direction: Float[Tensor, " width"]
) -> Writers:
    """Direct contributions at one position of one prompt to the stream that enters `layer`. Raises UnsupportedModel."""
    require_sums(subject)
    sites = [Site(at, kind) for at in range(layer) for kind in (Kind.HEAD, Kind.NEURON)]
    ends = [Site(0, Kind.RESID), Site(layer, Kind.RESID)]
    _, seen = subject.record(prompts, [*dict.fromkeys([*ends, *sites])])
    nodes: dict[Node, float] = {}
    for site in sites:
        weight = subject.layout.weight(site).float()
        along = weight @ direction.to(weight.device)  # (unit, channel)
        shares = (seen[site][0, position].float() * along).sum(-1)
        nodes |= {Node(site, unit): float(share) for unit, share in enumerate(shares)}
    whole, embedding = (float(seen[site][0, position, 0].float() @ direction) for site in reversed(ends))
    return Writers(whole, embedding, nodes)
