"""GPT-2: q, k and v in one projection, part by part."""

from subcircuit.families._base import Tap, decoder

__all__ = ["family"]

family = decoder(
    "h",
    attn="attn",
    mlp="mlp",
    heads="attn.c_proj",
    neurons="mlp.c_proj",
    q=Tap("attn.c_attn", "out", "(p u c)", part=0),
    k=Tap("attn.c_attn", "out", "(p u c)", part=1),
    v=Tap("attn.c_attn", "out", "(p u c)", part=2),
    reads=("ln_1", "ln_2"),
    final="ln_f",
)
