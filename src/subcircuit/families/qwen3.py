"""Qwen3: Llama's layout; q and k are normalised per head after these taps."""

from subcircuit.families._base import Tap, decoder

__all__ = ["family"]

family = decoder(
    "layers",
    attn="self_attn",
    mlp="mlp",
    heads="self_attn.o_proj",
    neurons="mlp.down_proj",
    q=Tap("self_attn.q_proj", "out"),
    k=Tap("self_attn.k_proj", "out"),
    v=Tap("self_attn.v_proj", "out"),
    pre_norms=("input_layernorm", "post_attention_layernorm"),
)
