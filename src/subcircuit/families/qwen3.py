"""Qwen3: Llama's layout; q and k are normalised per head after these taps."""

from subcircuit.families._base import llama_like

__all__ = ["family"]

family = llama_like()
