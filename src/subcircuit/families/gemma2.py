"""Gemma 2: norms before and after both branches; capped logits."""

from subcircuit.families._base import Tap, decoder

__all__ = ["family"]

family = decoder(
    "layers",
    attn="post_attention_layernorm",  # the norm after the branch: its output joins the residual stream
    mlp="post_feedforward_layernorm",
    heads="self_attn.o_proj",
    neurons="mlp.down_proj",
    q=Tap("self_attn.q_proj", "out"),
    k=Tap("self_attn.k_proj", "out"),
    v=Tap("self_attn.v_proj", "out"),
    pre_norms=("input_layernorm", "pre_feedforward_layernorm"),
)
