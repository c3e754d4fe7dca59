"""GPT-NeoX and Pythia: parallel branches; q, k and v in one projection, head by head."""

from subcircuit.families._base import Tap, decoder

__all__ = ["family"]

family = decoder(
    "layers",
    attn="attention",
    mlp="mlp",
    heads="attention.dense",
    neurons="mlp.dense_4h_to_h",
    q=Tap("attention.query_key_value", "out", "(u p c)", part=0),  # q, k, v of head 0, then of head 1
    k=Tap("attention.query_key_value", "out", "(u p c)", part=1),
    v=Tap("attention.query_key_value", "out", "(u p c)", part=2),
    reads=("input_layernorm", "post_attention_layernorm"),
    final="final_layer_norm",
    parallel="use_parallel_residual",
)
