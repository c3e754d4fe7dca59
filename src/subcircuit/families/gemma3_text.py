"""Gemma 3 (text): norms before and after both branches; q and k normalised per head."""

from subcircuit.families._base import llama_like

__all__ = ["family"]

family = llama_like(post_norms=True)
