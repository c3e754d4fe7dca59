"""Gemma 2: norms before and after both branches; capped logits."""

from subcircuit.families._base import llama_like

__all__ = ["family"]

family = llama_like(post_norms=True)
