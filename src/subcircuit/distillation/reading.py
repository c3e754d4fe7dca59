"""Models reading text: hidden states at the positions that predict a response, unembedded a few tokens at a time.

No tensor of (batch, position, vocabulary) is ever there. The backward pass computes a chunk's logits again.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from subcircuit.distillation.speaking import Written

__all__ = ["Read", "chunks", "read", "unembed"]

Hidden = Float[Tensor, "token hidden"]


class Read:
    """What a model makes of a text: its last hidden states where they predict a judged token, and one further on."""

    def __init__(self, states: Float[Tensor, "row pos hidden"], text: Written) -> None:
        judged = text.response[:, 1:].to(states.device)
        self.states: Hidden = states[:, :-1][judged]
        self.after: Hidden = states[:, 1:][judged]
        self.tokens: Int[Tensor, " token"] = text.ids.to(states.device)[:, 1:][judged]

    def __len__(self) -> int:
        return len(self.tokens)


def read(model: PreTrainedModel, text: Written, ids: Int[Tensor, "row pos"] | None = None) -> Read:
    """One pass without the unembedding. `ids` stand for the text's own, where this model spells them otherwise."""
    given = (text.ids if ids is None else ids).to(model.device)
    out = model.base_model(input_ids=given, attention_mask=text.mask.long().to(model.device), use_cache=False)
    return Read(out.last_hidden_state, text)


def unembed(model: PreTrainedModel, states: Hidden) -> Float[Tensor, "token vocab"]:
    """Logits in float32 or finer, capped where the architecture caps them."""
    logits: Tensor = model.get_output_embeddings()(states)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    cap = getattr(model.config, "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else logits


def chunks(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` tokens."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
