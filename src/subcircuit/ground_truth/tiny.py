"""Tiny random models of every family, built in memory, and prompts for them.

All of them have four heads, and two key/value heads where the family allows it. Their weights are far larger than at
an ordinary start, so that every unit moves the logits by much more than rounding does.
"""

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from subcircuit import plugins
from subcircuit.errors import UnknownName
from subcircuit.subject import Prompts, Subject
from subcircuit.tasks._base import Pairs

__all__ = ["CONFIGS", "VOCAB", "random_pairs", "random_prompts", "tiny", "word_tokenizer"]

VOCAB = 64
SPECIAL = 3  # ids below are padding, start and end

TOKENS: dict[str, Any] = {"vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
PLAIN: dict[str, Any] = {
    **TOKENS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED: dict[str, Any] = {**PLAIN, "num_key_value_heads": 2}
WIDE: dict[str, Any] = {**GROUPED, "head_dim": 16}  # heads wider together than the residual stream
WINDOWED: dict[str, Any] = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}

CONFIGS: dict[str, dict[str, Any]] = {
    "bert": PLAIN,
    "distilbert": {
        **TOKENS,
        "dim": 32,
        "hidden_dim": 48,
        "n_layers": 2,
        "n_heads": 4,
        "max_position_embeddings": 64,
    },
    "gemma": WIDE,
    "gemma2": {**WIDE, **WINDOWED, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 16},
    "gemma3_text": {**WIDE, **WINDOWED, "query_pre_attn_scalar": 16},
    "gpt2": {**TOKENS, "n_embd": 32, "n_inner": 48, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gpt_neox": PLAIN,
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": 4},
    "olmo2": GROUPED,
    "phi3": GROUPED,
    "qwen2": GROUPED,
    "qwen3": WIDE,
    "tracr": {**PLAIN, "hidden_size": 16, "head_dim": 8, "causal": True},
}


def tiny(family: str, *, seed: int = 0, **overrides: Any) -> Subject:
    """A random model of a family: two layers, four heads, float32. `overrides` go into its config.

    Raises UnknownName for a family that has no tiny configuration.
    """
    if family not in CONFIGS:
        raise UnknownName("tiny configuration of the family", family, CONFIGS)
    causal = plugins.load("families", family).causal  # loaded first: it may make its architecture known
    config = AutoConfig.for_model(family, **{**CONFIGS[family], **overrides})
    auto: Any = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    model: PreTrainedModel = auto.from_config(config).float()
    _randomise(model, seed)
    return Subject(model, name=f"tiny-{family}")


def random_prompts(subject: Subject, n: int = 4, length: int = 9, seed: int = 0) -> Prompts:
    """Random tokens, no padding; the last position is judged, in an encoder a middle one."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(SPECIAL, VOCAB, (n, length), generator=generator)
    at = length - 1 if subject.family.causal else length // 2
    return Prompts(ids, torch.ones_like(ids, dtype=torch.bool), torch.full((n,), at))


def random_pairs(subject: Subject, n: int = 4, length: int = 9, seed: int = 0) -> Pairs:
    """Clean and corrupted random prompts; right is the clean prompt's top token, wrong the best other one corrupted."""
    clean, corrupt = (random_prompts(subject, n, length, 2 * seed + which) for which in (0, 1))
    with torch.no_grad():
        right = subject.logits(clean).argmax(-1, keepdim=True)
        wrong = subject.logits(corrupt).scatter(1, right, -torch.inf).argmax(-1, keepdim=True)
    return Pairs(clean, corrupt, right, wrong)


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerBase:
    """A tokenizer that knows these words and nothing else, each by its place."""
    model = WordLevel({word: place for place, word in enumerate(words)}, unk_token=words[0])
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))


def _randomise(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() > 1:
                weight.copy_(noise * 0.3)
            else:
                weight.add_(noise * 0.1)  # biases, and norm weights about their start
