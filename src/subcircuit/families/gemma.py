"""Gemma: Llama's layout with a GELU gate and scaled embeddings."""

from subcircuit.families._base import llama_like

__all__ = ["family"]

family = llama_like()
