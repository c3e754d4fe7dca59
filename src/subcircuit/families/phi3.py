"""Phi-3 and Phi-4-mini: Llama's layout with q, k and v in one projection, whose parts differ in size."""

from subcircuit.families._base import Tap, decoder

__all__ = ["family"]

PARTS = ("heads", "kv_heads", "kv_heads")

family = decoder(
    "layers",
    attn="self_attn",
    mlp="mlp",
    heads="self_attn.o_proj",
    neurons="mlp.down_proj",
    q=Tap("self_attn.qkv_proj", "out", part=0, split=PARTS),
    k=Tap("self_attn.qkv_proj", "out", part=1, split=PARTS),
    v=Tap("self_attn.qkv_proj", "out", part=2, split=PARTS),
    reads=("input_layernorm", "post_attention_layernorm"),
    final="norm",
)
