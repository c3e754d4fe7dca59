"""Compiled RASP programs: Llama's module names, without any norm."""

from subcircuit import compiled  # noqa: F401  # makes the architecture known to transformers
from subcircuit.families._base import llama_like

__all__ = ["family"]

family = llama_like(pre_norms=False)
