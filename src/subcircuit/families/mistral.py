"""Mistral: Llama's layout with sliding-window attention."""

from subcircuit.families._base import llama_like

__all__ = ["family"]

family = llama_like()
