"""The edges of a circuit for the page: its own, and of the others those of the largest scores."""

import torch
from pydantic import BaseModel, ConfigDict, Field

from subcircuit.edge_tables import Edges
from subcircuit.report.arrays import Arrays, Place

__all__ = ["MOST", "EdgeList", "edge_list"]

MOST = 200_000  # edges that a page of a few megabytes can carry; those of the circuit always come along


class EdgeList(BaseModel):
    """Edges reader by reader. Where `count` is below `total`, the ones left out score closer to 0 than all others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    writers: list[str]
    readers: list[str]
    total: int = Field(description="edges that the model has")
    count: int = Field(description="edges that are listed")
    writer: Place
    reader: Place
    scores: Place
    kept: Place = Field(description="1 = in the circuit")


def edge_list(edges: Edges, arrays: Arrays, most: int = MOST) -> EdgeList:
    """At most `most` edges, or all of the circuit's where these are more."""
    wiring = edges.wiring
    places = wiring.allowed.nonzero()
    scores, kept = (table[wiring.allowed] for table in (edges.scores, edges.kept))
    if len(places) > most:
        ranks = scores.abs().masked_fill(kept, torch.inf)
        chosen = ranks.topk(max(most, int(kept.sum()))).indices.sort().values
        places, scores, kept = places[chosen], scores[chosen], kept[chosen]
    return EdgeList(
        writers=list(wiring.writers),
        readers=list(wiring.readers),
        total=int(wiring.allowed.sum()),
        count=len(places),
        writer=arrays.add(places[:, 1].numpy(), "u2"),
        reader=arrays.add(places[:, 0].numpy(), "u2"),
        scores=arrays.add(scores.float().numpy(), "f4"),
        kept=arrays.add(kept.numpy(), "u1"),
    )
