"""Llama, and the SmolLM2 and TinyLlama models built on it."""

from subcircuit.families._base import llama_like

__all__ = ["family"]

family = llama_like()
