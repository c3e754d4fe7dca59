"""Tiny random models of every family, built in memory, and prompts for them.

All of them have four heads, and two key/value heads where the family allows it. Their weights are far larger than at
an ordinary start, so that every unit moves the logits by much more than rounding does. In a *planted* model only the
named heads and neurons write to the residual stream: its circuit is known in advance.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from subcircuit import plugins
from subcircuit.sites import Kind
from subcircuit.subject import Prompts, Subject
from subcircuit.tasks._base import Pairs

__all__ = ["NODES", "VOCAB", "planted", "random_pairs", "random_prompts", "shortened", "tiny"]

VOCAB = 64
SPECIAL = 3  # ids below are padding, start and end
HEADS = [(0, 1), (1, 2)]
NEURONS = [(0, 3), (1, 5), (1, 30)]
NODES = (HEADS, NEURONS)  # what `planted` plants when not told otherwise, as (layer, unit)

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
}
STRENGTH = {Kind.HEAD: 3.0, Kind.NEURON: 16.0}  # a neuron writes one direction, a head one for each of its channels
# A norm after a branch keeps only the branch's direction, and a branch of one neuron has but two directions; a large
# epsilon makes that norm nearly linear, so that a lone planted neuron counts by its value.
PLANTED: dict[str, dict[str, Any]] = {
    "gemma2": {"rms_norm_eps": 3.0, "final_logit_softcapping": 10.0},
    "gemma3_text": {"rms_norm_eps": 3.0},
    "olmo2": {"rms_norm_eps": 3.0},
}


def tiny(family: str, *, seed: int = 0, **overrides: Any) -> Subject:
    """A random model of a family: two layers, four heads, float32. `overrides` go into its config."""
    if family not in CONFIGS:
        raise KeyError(f"no tiny config for the family '{family}': add one to CONFIGS in tests/tiny.py")
    config = AutoConfig.for_model(family, **{**CONFIGS[family], **overrides})
    auto: Any = AutoModelForCausalLM if plugins.load("families", family).causal else AutoModelForMaskedLM
    model: PreTrainedModel = auto.from_config(config).float()
    _randomise(model, seed)
    return Subject(model, name=f"tiny-{family}")


def planted(
    family: str,
    heads: Sequence[tuple[int, int]] = HEADS,
    neurons: Sequence[tuple[int, int]] = NEURONS,
    *,
    seed: int = 0,
    **overrides: Any,
) -> Subject:
    """A random model whose circuit is known: of all heads and neurons only the named (layer, unit) write anything.

    What those write is multiplied by STRENGTH. Biases stay: they are the same in every prompt.
    """
    subject = tiny(family, seed=seed, **{**PLANTED.get(family, {}), **overrides})
    for kind, nodes in {Kind.HEAD: heads, Kind.NEURON: neurons}.items():
        for layer in range(len(subject)):
            keep = [unit for at, unit in nodes if at == layer]
            module = subject.module(layer, subject.family.taps[kind].module)
            _keep_inputs(module, keep, units=subject.units(kind), strength=STRENGTH[kind])
    _amplify_branches(subject)
    return subject


def random_prompts(subject: Subject, n: int = 4, length: int = 9, seed: int = 0) -> Prompts:
    """Random tokens, no padding; the last position is judged, in an encoder a middle one."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(SPECIAL, VOCAB, (n, length), generator=generator)
    at = length - 1 if subject.family.causal else length // 2
    return Prompts(ids, torch.ones_like(ids, dtype=torch.bool), torch.full((n,), at))


def shortened(prompts: Prompts) -> Prompts:
    """The same prompts, every row but the first cut by one to three tokens and padded on the right."""
    rows = torch.arange(len(prompts))
    lengths = prompts.lengths - torch.where(rows == 0, 0, 1 + rows % 3)
    mask = torch.arange(prompts.ids.shape[1]) < lengths[:, None]
    return Prompts(prompts.ids.masked_fill(~mask, 0), mask, prompts.at.minimum(lengths - 1))


def random_pairs(subject: Subject, n: int = 4, length: int = 9, seed: int = 0) -> Pairs:
    """Clean and corrupted random prompts; right is the clean prompt's top token, wrong the best other one corrupted."""
    clean, corrupt = (random_prompts(subject, n, length, 2 * seed + which) for which in (0, 1))
    with torch.no_grad():
        right = subject.logits(clean).argmax(-1, keepdim=True)
        wrong = subject.logits(corrupt).scatter(1, right, -torch.inf).argmax(-1, keepdim=True)
    return Pairs(clean, corrupt, right, wrong)


def _randomise(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() > 1:
                weight.copy_(noise * 0.3)
            else:
                weight.add_(noise * 0.1)  # biases, and norm weights about their start


def _keep_inputs(module: nn.Module, keep: Sequence[int], *, units: int, strength: float) -> None:
    """Zero what a projection reads from all units but some."""
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    gains = torch.zeros(units)
    gains[list(keep)] = strength
    linear = isinstance(module, nn.Linear)
    inputs = weight.shape[1] if linear else weight.shape[0]  # GPT-2's Conv1D is (in, out)
    gains = gains.repeat_interleave(inputs // units)
    with torch.no_grad():
        weight.mul_(gains if linear else gains[:, None])


def _amplify_branches(subject: Subject) -> None:
    """Where a norm follows the branches it limits what they add; let it add as much as elsewhere."""
    with torch.no_grad():
        for layer in range(len(subject)):
            for kind in (Kind.ATTN, Kind.MLP):
                gain = getattr(subject.module(layer, subject.family.taps[kind].module), "weight", None)
                if isinstance(gain, torch.Tensor) and gain.dim() == 1:
                    gain.add_(3.0)
