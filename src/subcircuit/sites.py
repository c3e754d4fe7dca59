"""Names for places in a transformer.

A *site* is one kind of activation in one layer; every site's activation is seen as `(batch, position, unit, channel)`.
A *node* is one unit of a site. Kinds nest: a block holds an attention and an MLP branch, a branch its heads or neurons,
a head its channels. Switching a parent off switches its children off, so masks compose by product.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from subcircuit.errors import UnknownName, UsageError

__all__ = ["CHILDREN", "ONE_UNIT", "PARENT", "Kind", "Node", "Site"]


class Kind(StrEnum):
    """What sits at a site. The comment gives the unit."""

    RESID = "resid"  # the residual stream that enters the layer, as one unit; one past the last layer: that leaves it
    BLOCK = "block"  # what the layer adds to the residual stream; off = its reference's addition, not a cut stream
    ATTN = "attn"  # the attention branch's addition
    MLP = "mlp"  # the MLP branch's addition
    HEAD = "head"  # a head's output before the output projection
    CHANNEL = "channel"  # one coordinate of a head's output ("attention neuron")
    NEURON = "neuron"  # one hidden unit of the MLP, after its activation and gate
    MLP_OUT = "mlp_out"  # one coordinate of the MLP branch's addition
    Q = "q"  # a head's query, before rotary embedding
    K = "k"  # a key head's key, before rotary embedding
    V = "v"  # a value head's value
    KV = "kv"  # a key/value group: one key head and its value head
    ATTN_IN = "attn_in"  # the residual stream as the attention branch takes it in, before the branch's own norm
    MLP_IN = "mlp_in"  # the same for the MLP branch


ONE_UNIT = (Kind.RESID, Kind.BLOCK, Kind.ATTN, Kind.MLP, Kind.ATTN_IN, Kind.MLP_IN)
PARENT: Mapping[Kind, Kind] = {
    Kind.ATTN: Kind.BLOCK,
    Kind.MLP: Kind.BLOCK,
    Kind.HEAD: Kind.ATTN,
    Kind.KV: Kind.ATTN,
    Kind.CHANNEL: Kind.HEAD,
    Kind.NEURON: Kind.MLP,
    Kind.MLP_OUT: Kind.MLP,
}
CHILDREN: Mapping[Kind, tuple[Kind, ...]] = {
    parent: tuple(kind for kind in PARENT if PARENT[kind] is parent) for parent in dict.fromkeys(PARENT.values())
}
NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")  # one spelling for each number, so that names in files compare as text


@dataclass(frozen=True, order=True)
class Site:
    """One kind of activation in one layer, written "3.head"."""

    layer: int
    kind: Kind

    def __str__(self) -> str:
        return f"{self.layer}.{self.kind}"

    @classmethod
    def parse(cls, text: str) -> "Site":
        """Read "3.head". Raises UsageError when it is not of that form, UnknownName for an unknown kind."""
        layer, _, kind = text.partition(".")
        if not NUMBER.fullmatch(layer) or not kind:
            raise UsageError(f"'{text}' is not a site", "write LAYER.KIND, for example 3.head")
        if kind not in list(Kind):
            raise UnknownName("kind", kind, list(Kind))
        return cls(int(layer), Kind(kind))


@dataclass(frozen=True, order=True)
class Node:
    """One unit of a site, written "3.head.7"; a site of one unit is written without it: "3.mlp"."""

    site: Site
    unit: int

    def __str__(self) -> str:
        return str(self.site) if self.site.kind in ONE_UNIT else f"{self.site}.{self.unit}"

    @classmethod
    def parse(cls, text: str) -> "Node":
        """Read "3.head.7" or "3.mlp". Raises UsageError or UnknownName."""
        place, dot, unit = text.rpartition(".") if text.count(".") > 1 else (text, "", "0")
        site = Site.parse(place)
        if bool(dot) == (site.kind in ONE_UNIT) or not NUMBER.fullmatch(unit):
            form = "LAYER.KIND, for example 3.mlp" if site.kind in ONE_UNIT else "LAYER.KIND.UNIT, for example 3.head.7"
            raise UsageError(f"'{text}' is not a node", f"write {form}")
        return cls(site, int(unit))
