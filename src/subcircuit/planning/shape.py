"""The sizes of a model that memory and time follow from; the weights need not be there."""

from dataclasses import dataclass, replace
from typing import Any

from subcircuit.errors import UnknownName
from subcircuit.sites import Kind
from subcircuit.subject import Subject

__all__ = ["BYTES", "Shape"]

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Activations that are written in Python, so that autograd keeps a tensor for each of their steps; others keep one.
CHAINS = {"gelu_new": 4, "gelu_fast": 4, "quick_gelu": 3}


@dataclass(frozen=True)
class Shape:
    """Widths are numbers per token."""

    name: str
    layers: int
    hidden: int
    heads: int
    queries: int  # of all heads together
    groups: int  # key/value heads
    keys: int  # of all key heads together
    neurons: int
    vocab: int
    parameters: int
    embedding: int  # of these, those that a token only looks up
    norms: int  # tensors as wide as the residual stream that a layer's norms keep for the backward pass
    activated: int  # tensors as wide as the neurons that a layer's MLP keeps for it
    normed: bool  # queries and keys have norms of their own
    probabilities: int  # tensors of heads x positions x positions that attention keeps for it
    itemsize: int = 4  # bytes of a weight

    @classmethod
    def of(cls, subject: Subject, dtype: str = "float32") -> "Shape":
        """Of a model, also one of `load_shape`. Raises UnknownName for a dtype that is none."""
        if dtype not in BYTES:
            raise UnknownName("dtype", dtype, BYTES)
        config, family = subject.model.config, subject.family
        weights = {id(weight): weight.numel() for weight in subject.model.parameters()}
        lookup = subject.model.get_input_embeddings().weight
        head = subject.model.get_output_embeddings()
        tied = head is not None and head.weight is lookup
        channels = subject.layout.channels
        return cls(
            name=subject.name,
            layers=len(subject),
            hidden=subject.units(Kind.MLP_OUT),
            heads=subject.units(Kind.HEAD),
            queries=subject.units(Kind.CHANNEL),
            groups=subject.units(Kind.K),
            keys=subject.units(Kind.K) * channels,
            neurons=subject.units(Kind.NEURON),
            vocab=int(config.vocab_size),
            parameters=sum(weights.values()),
            embedding=0 if tied else lookup.numel(),
            norms=2 * family.pre_norms + 2 * family.post_norms,
            activated=_activated(subject),
            normed=any(name.endswith("q_norm") for name, _ in subject.module(0, "").named_modules()),
            probabilities=2 if getattr(config, "attn_logit_softcapping", None) else 0,  # eager: before and after a cap
            itemsize=BYTES[dtype],
        )

    def stored_as(self, dtype: str) -> "Shape":
        """The same model with weights of another type."""
        return replace(self, itemsize=BYTES[dtype])

    def width(self, kind: Kind) -> int:
        """Numbers per token at a site, as `Subject.width`."""
        widths = {Kind.HEAD: self.queries, Kind.CHANNEL: self.queries, Kind.Q: self.queries, Kind.NEURON: self.neurons}
        return widths.get(kind, self.keys if kind in (Kind.K, Kind.V) else self.hidden)

    @property
    def readers(self) -> int:
        """Queries, keys and values of a layer that read the stream apart from each other."""
        return self.heads + 2 * self.groups

    @property
    def writers(self) -> int:
        """Embeddings, heads and MLPs."""
        return 1 + self.layers * (self.heads + 1)


def _activated(subject: Subject) -> int:
    """The activation's own tensors; with a gate beside it, also what it gives and what that is multiplied with."""
    config: Any = subject.model.config
    name = getattr(config, "hidden_act", None) or getattr(config, "activation_function", None) or ""
    chain = CHAINS.get(str(getattr(config, "hidden_activation", None) or name), 1)
    down = subject.module(0, subject.family.taps[Kind.NEURON].module)
    branch = subject.module(0, subject.family.taps[Kind.NEURON].module.rpartition(".")[0])
    matrices = sum(weight.numel() for weight in branch.parameters() if weight.dim() == 2)
    own = sum(weight.numel() for weight in down.parameters() if weight.dim() == 2)
    return chain + (2 if matrices > 2.5 * own else 0)
