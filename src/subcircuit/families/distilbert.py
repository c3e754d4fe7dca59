"""DistilBERT encoders: BERT with half the layers and its own module names."""

from subcircuit.families._base import Tap, decoder

__all__ = ["family"]

family = decoder(
    "transformer.layer",
    attn="attention.out_lin",
    mlp="ffn.lin2",
    heads="attention.out_lin",
    neurons="ffn.lin2",
    q=Tap("attention.q_lin", "out"),
    k=Tap("attention.k_lin", "out"),
    v=Tap("attention.v_lin", "out"),
    reads=("attention", "ffn"),
    pre_norms=False,
    causal=False,
)
