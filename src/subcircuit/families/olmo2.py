"""OLMo 2: norms after the branches only; q and k normalised over all heads."""

from subcircuit.families._base import llama_like

__all__ = ["family"]

family = llama_like(post_norms=True)
