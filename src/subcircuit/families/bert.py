"""BERT encoders: norms after each branch has joined the residual stream."""

from subcircuit.families._base import Tap, decoder

__all__ = ["family"]

family = decoder(
    "encoder.layer",
    attn="attention.output.dense",
    mlp="output.dense",
    heads="attention.output.dense",
    neurons="output.dense",
    q=Tap("attention.self.query", "out"),
    k=Tap("attention.self.key", "out"),
    v=Tap("attention.self.value", "out"),
    reads=("attention.self", "intermediate"),
    pre_norms=False,
    causal=False,
)
