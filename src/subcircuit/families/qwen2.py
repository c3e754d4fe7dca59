"""Qwen2 and Qwen2.5: Llama's layout with biases on q, k and v."""

from subcircuit.families._base import llama_like

__all__ = ["family"]

family = llama_like()
