"""OLMo 2: norms after the branches only; q and k normalised over all heads."""

from subcircuit.families._base import llama_like

__all__ = ["family"]

family = llama_like(pre_norms=False, post_norms=True, wide_norms=True)
