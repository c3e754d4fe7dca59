"""The graph of a decoder: writers add to the residual stream, readers take it in, an edge leads from one to the other.

Writers are the embeddings, every head and every MLP. Readers are every head's query, every key/value head's key and
value, every MLP and the unembedding. An edge is named as the field names it: "3.head.7->5.q.2", "input->0.mlp".
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool
from torch import Tensor

from subcircuit.errors import UnknownName, UnsupportedModel, UsageError
from subcircuit.layout import Layout
from subcircuit.sites import Kind, Node, Site

__all__ = ["ARROW", "INPUT", "LOGITS", "PROJECTIONS", "Wiring"]

INPUT, LOGITS = "input", "logits"
ARROW = "->"
PROJECTIONS = (Kind.Q, Kind.K, Kind.V)


@dataclass(frozen=True)
class Wiring:
    """Who can write to whom in a decoder of this shape. Writers and readers are in the order of computation."""

    layers: int
    heads: int  # per layer
    groups: int  # key/value heads per layer
    parallel: bool = False  # the MLP reads what its layer's attention reads
    joined: bool = False  # a norm spans the queries, and the keys, of all heads: each bears on all the others

    @classmethod
    def of(cls, layout: Layout) -> "Wiring":
        """The graph of a model. Raises UnsupportedModel for an encoder, whose norms leave no sum to take apart."""
        if not layout.family.causal:
            raise UnsupportedModel(
                f"{layout.name} is an encoder, whose norms follow the residual stream: it has no edges to cut",
                "use a method on nodes, such as node-pruning, or a decoder",
            )
        parallel = bool(layout.family.parallel and getattr(layout.config, layout.family.parallel))
        heads, groups = layout.units[Kind.HEAD], layout.units[Kind.K]
        return cls(len(layout.layers), heads, groups, parallel, layout.family.wide_norms)

    @cached_property
    def writers(self) -> tuple[str, ...]:
        """The columns of an edge table."""
        names = [INPUT]
        for layer in range(self.layers):
            names += [str(Node(Site(layer, Kind.HEAD), head)) for head in range(self.heads)]
            names.append(str(Site(layer, Kind.MLP)))
        return tuple(names)

    @cached_property
    def readers(self) -> tuple[str, ...]:
        """The rows of an edge table."""
        names = []
        for layer in range(self.layers):
            for kind in PROJECTIONS:
                names += [str(Node(Site(layer, kind), unit)) for unit in range(self._units(kind))]
            names.append(str(Site(layer, Kind.MLP)))
        return (*names, LOGITS)

    @cached_property
    def allowed(self) -> Bool[Tensor, "reader writer"]:
        """Where there is an edge: from everything computed before the reader."""
        table = torch.zeros(len(self.readers), len(self.writers), dtype=torch.bool)
        for layer in range(self.layers):
            for kind in (*PROJECTIONS, Kind.MLP):
                table[self.rows(Site(layer, kind)), : self.before(Site(layer, kind))] = True
        table[-1] = True
        return table

    def rows(self, site: Site) -> slice:
        """The readers at a Q, K, V or MLP site."""
        per_layer = self.heads + 2 * self.groups + 1
        start = {Kind.Q: 0, Kind.K: self.heads, Kind.V: self.heads + self.groups, Kind.MLP: per_layer - 1}[site.kind]
        first = site.layer * per_layer + start
        return slice(first, first + self._units(site.kind))

    @property
    def last(self) -> slice:
        """The unembedding's row."""
        return slice(len(self.readers) - 1, len(self.readers))

    def columns(self, site: Site) -> slice:
        """The writers at a HEAD or MLP site; at the first layer's RESID, the embeddings."""
        if site.kind is Kind.RESID:
            return slice(0, 1)
        start = 1 + site.layer * (self.heads + 1)
        return (
            slice(start, start + self.heads) if site.kind is Kind.HEAD else slice(start + self.heads, self.after(site))
        )

    def before(self, site: Site) -> int:
        """How many writers come before the readers of a site."""
        own = self.heads if site.kind is Kind.MLP and not self.parallel else 0
        return 1 + site.layer * (self.heads + 1) + own

    def after(self, site: Site) -> int:
        """How many writers there are once the site's layer is done."""
        return 1 + (site.layer + 1) * (self.heads + 1)

    def name(self, reader: int, writer: int) -> str:
        """An edge as text."""
        return f"{self.writers[writer]}{ARROW}{self.readers[reader]}"

    def parse(self, text: str) -> tuple[int, int]:
        """Reader and writer of an edge's name. Raises UnknownName for a node, UsageError for an edge that is none."""
        writer, arrow, reader = text.partition(ARROW)
        if not arrow:
            raise UsageError(f"'{text}' is not an edge", "write WRITER->READER, for example 3.head.7->5.q.2")
        places = self._place("writer", writer, self._writer_places), self._place("reader", reader, self._reader_places)
        if not self.allowed[places[1], places[0]]:
            raise UsageError(f"there is no edge '{text}': {reader} is computed before {writer}")
        return places[1], places[0]

    @cached_property
    def _writer_places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.writers)}

    @cached_property
    def _reader_places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.readers)}

    def _place(self, what: str, name: str, places: dict[str, int]) -> int:
        if name not in places:
            raise UnknownName(what, name, places)
        return places[name]

    def _units(self, kind: Kind) -> int:
        return {Kind.Q: self.heads, Kind.MLP: 1}.get(kind, self.groups)
