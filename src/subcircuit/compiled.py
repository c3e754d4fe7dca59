"""Transformers compiled from RASP programs (Lindner et al. 2023, arXiv 2301.05062), as a Hugging Face architecture.

No norms, no biases but the unembedding's, ReLU neurons, absolute positions; attention sees later tokens too, unless
`causal`. Importing this module makes the type `tracr` known to transformers' Auto classes. No code of tracr is used.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

__all__ = ["CompiledConfig", "CompiledModel", "CompiledStack"]

Ids = Int[Tensor, "batch pos"]
Stream = Float[Tensor, "batch pos hidden"]
Seen = Bool[Tensor, "batch 1 query key"]


class CompiledConfig(PretrainedConfig):
    """The shape of a compiled program."""

    model_type = "tracr"

    def __init__(
        self,
        vocab_size: int = 8,
        hidden_size: int = 16,
        num_hidden_layers: int = 1,
        num_attention_heads: int = 1,
        head_dim: int = 8,
        intermediate_size: int = 16,
        max_position_embeddings: int = 8,
        causal: bool = False,
        **more: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.head_dim = head_dim
        self.intermediate_size = intermediate_size
        self.max_position_embeddings = max_position_embeddings
        self.causal = causal
        super().__init__(**{"tie_word_embeddings": False, **more})


class CompiledAttention(nn.Module):
    """Softmax attention whose heads may together be wider than the residual stream."""

    def __init__(self, config: CompiledConfig) -> None:
        super().__init__()
        self.heads, width = config.num_attention_heads, config.num_attention_heads * config.head_dim
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(config.hidden_size, width, bias=False) for _ in range(3))
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)

    def forward(self, hidden_states: Stream, seen: Seen) -> Stream:
        """What the heads add to the stream; a query attends to the keys it has `seen`."""
        q, k, v = (
            projection(hidden_states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out


class CompiledMLP(nn.Module):
    """One hidden layer of rectified neurons."""

    def __init__(self, config: CompiledConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: Stream) -> Stream:
        out: Tensor = self.down_proj(self.up_proj(hidden_states).relu())
        return out


class CompiledLayer(nn.Module):
    """Attention, then the MLP; both read the stream as it is."""

    def __init__(self, config: CompiledConfig) -> None:
        super().__init__()
        self.self_attn = CompiledAttention(config)
        self.mlp = CompiledMLP(config)

    def forward(self, hidden_states: Stream, seen: Seen) -> Stream:
        hidden_states = hidden_states + self.self_attn(hidden_states, seen)
        out: Tensor = hidden_states + self.mlp(hidden_states)
        return out


class CompiledStack(PreTrainedModel):
    """The layers without the unembedding."""

    config_class = CompiledConfig
    base_model_prefix = "model"
    _supports_sdpa = True

    def __init__(self, config: CompiledConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(CompiledLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.Identity()  # there is none; it marks where the finished stream passes
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed_tokens

    def forward(self, input_ids: Ids, attention_mask: Ids | None = None, **unused: Any) -> BaseModelOutput:
        """The finished stream. Padding is on the right; `use_cache` and the like are taken and ignored."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        stream = self.embed_tokens(input_ids) + self.embed_positions(places)
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        seen = real.bool()[:, None, None, :]
        if self.config.causal:
            seen = seen & (places[:, None] >= places)
        for layer in self.layers:
            stream = layer(stream, seen)
        return BaseModelOutput(last_hidden_state=self.norm(stream))


class CompiledModel(PreTrainedModel):
    """A compiled program: token ids in, a logit for every token of its vocabulary out, at every position."""

    config_class = CompiledConfig
    base_model_prefix = "model"
    _supports_sdpa = True

    def __init__(self, config: CompiledConfig) -> None:
        super().__init__(config)
        self.model = CompiledStack(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Embedding:
        embeddings: nn.Embedding = self.model.embed_tokens
        return embeddings

    def get_output_embeddings(self) -> nn.Linear:
        unembedding: nn.Linear = self.lm_head
        return unembedding

    def forward(self, input_ids: Ids, attention_mask: Ids | None = None, **unused: Any) -> CausalLMOutput:
        """Logits at every position."""
        return CausalLMOutput(logits=self.lm_head(self.model(input_ids, attention_mask).last_hidden_state))


AutoConfig.register(CompiledConfig.model_type, CompiledConfig)
AutoModel.register(CompiledConfig, CompiledStack)
AutoModelForCausalLM.register(CompiledConfig, CompiledModel)
