"""Four decoders written out once more, reader by reader: what a model computes when some of its edges are closed.

Nothing of the library is used but the weights. Every reader gets a residual stream of its own, the sum of what each
writer before it adds, in this run or in the reference. Slow, and meant to be read beside the models' papers.
"""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

__all__ = ["EXPANDED", "Expanded"]

Written = dict[str, Tensor]  # writer -> what it adds to the stream, (batch, pos, hidden)


class Expanded:
    """GPT-2; the others change what they do differently."""

    heads, groups, size = 4, 4, 8
    parallel = False

    def __init__(self, model: PreTrainedModel) -> None:
        self.config: Any = model.config
        self.w: dict[str, Tensor] = dict(model.state_dict())
        self.w["unembedding"] = model.get_output_embeddings().weight.detach()

    def run(
        self, ids: Tensor, closed: Collection[str] = (), reference: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Written]:
        """Logits at the last position and what every writer added, with the edges named in `closed` switched off."""
        own: Written = {"input": self.embed(ids)}

        def stream(reader: str, before: list[str]) -> Tensor:
            seen = {
                name: (reference or {})[name].expand_as(own["input"]) if f"{name}->{reader}" in closed else own[name]
                for name in before
            }
            return self.total(seen)

        for layer in range(2):
            before = list(own)
            for head in range(self.heads):
                group = head * self.groups // self.heads
                q = self.q(layer, head, stream(f"{layer}.q.{head}", before))
                k = self.k(layer, group, stream(f"{layer}.k.{group}", before))
                v = self.v(layer, group, stream(f"{layer}.v.{group}", before))
                own[f"{layer}.head.{head}"] = self.out(layer, head, self.attend(layer, q, k, v))
            own[f"{layer}.mlp"] = self.mlp(layer, stream(f"{layer}.mlp", before if self.parallel else list(own)))
        return self.unembed(stream("logits", list(own)))[:, -1], own

    def total(self, seen: Written) -> Tensor:
        """The stream of a reader that sees this of its writers."""
        attended = [self.biases(layer) for layer in range(2) if f"{layer}.head.0" in seen]
        return torch.stack([*seen.values(), *[torch.zeros_like(seen["input"]) + bias for bias in attended]]).sum(0)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = self.capped(q @ k.mT * self.scale())
        length = q.shape[1]
        far = torch.arange(length)[:, None] - torch.arange(length)
        return scores.masked_fill((far < 0) | (far >= self.window(layer)), -torch.inf).softmax(-1) @ v

    def scale(self) -> float:
        return 1 / math.sqrt(self.size)

    def capped(self, scores: Tensor) -> Tensor:
        return scores

    def window(self, layer: int) -> float:
        return math.inf

    def embed(self, ids: Tensor) -> Tensor:
        return self.w["transformer.wte.weight"][ids] + self.w["transformer.wpe.weight"][: ids.shape[1]]

    def _projected(self, layer: int, part: int, head: int, stream: Tensor) -> Tensor:
        first = 32 * part + self.size * head
        columns = slice(first, first + self.size)
        x = self.norm(f"transformer.h.{layer}.ln_1", stream)
        path = f"transformer.h.{layer}.attn.c_attn"
        return x @ self.w[f"{path}.weight"][:, columns] + self.w[f"{path}.bias"][columns]

    def q(self, layer: int, head: int, stream: Tensor) -> Tensor:
        return self._projected(layer, 0, head, stream)

    def k(self, layer: int, head: int, stream: Tensor) -> Tensor:
        return self._projected(layer, 1, head, stream)

    def v(self, layer: int, head: int, stream: Tensor) -> Tensor:
        return self._projected(layer, 2, head, stream)

    def out(self, layer: int, head: int, mixed: Tensor) -> Tensor:
        rows = slice(self.size * head, self.size * head + self.size)
        return mixed @ self.w[f"transformer.h.{layer}.attn.c_proj.weight"][rows]

    def biases(self, layer: int) -> Tensor:
        return self.w[f"transformer.h.{layer}.attn.c_proj.bias"]

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        path = f"transformer.h.{layer}.mlp"
        x = self.norm(f"transformer.h.{layer}.ln_2", stream)
        x = F.gelu(x @ self.w[f"{path}.c_fc.weight"] + self.w[f"{path}.c_fc.bias"], approximate="tanh")
        return x @ self.w[f"{path}.c_proj.weight"] + self.w[f"{path}.c_proj.bias"]

    def unembed(self, stream: Tensor) -> Tensor:
        return self.norm("transformer.ln_f", stream) @ self.w["unembedding"].T

    def norm(self, path: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        x = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return x * self.w[f"{path}.weight"] + self.w[f"{path}.bias"]


class Llama(Expanded):
    """Grouped keys and values, rotary positions, a gated MLP, no biases."""

    groups = 2
    activation: Callable[[Tensor], Tensor] = staticmethod(F.silu)
    mlp_norm = "post_attention_layernorm"

    def embed(self, ids: Tensor) -> Tensor:
        return self.w["model.embed_tokens.weight"][ids]

    def _linear(self, path: str, unit: int, x: Tensor) -> Tensor:
        return x @ self.w[f"{path}.weight"][self.size * unit : self.size * (unit + 1)].T

    def _attention(self, layer: int, name: str, unit: int, stream: Tensor) -> Tensor:
        x = self.norm(f"model.layers.{layer}.input_layernorm", stream)
        return self._linear(f"model.layers.{layer}.self_attn.{name}_proj", unit, x)

    def q(self, layer: int, head: int, stream: Tensor) -> Tensor:
        return _rotated(self._attention(layer, "q", head, stream), self.size)

    def k(self, layer: int, head: int, stream: Tensor) -> Tensor:
        return _rotated(self._attention(layer, "k", head, stream), self.size)

    def v(self, layer: int, head: int, stream: Tensor) -> Tensor:
        return self._attention(layer, "v", head, stream)

    def out(self, layer: int, head: int, mixed: Tensor) -> Tensor:
        columns = slice(self.size * head, self.size * (head + 1))
        return mixed @ self.w[f"model.layers.{layer}.self_attn.o_proj.weight"][:, columns].T

    def biases(self, layer: int) -> Tensor:
        return torch.zeros(32)

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        path = f"model.layers.{layer}"
        x = self.norm(f"{path}.{self.mlp_norm}", stream)
        gate, up, down = (self.w[f"{path}.mlp.{name}_proj.weight"].T for name in ("gate", "up", "down"))
        return (self.activation(x @ gate) * (x @ up)) @ down

    def unembed(self, stream: Tensor) -> Tensor:
        return self.norm("model.norm", stream) @ self.w["unembedding"].T

    def norm(self, path: str, x: Tensor) -> Tensor:
        epsilon: float = self.config.rms_norm_eps
        return x / (x.pow(2).mean(-1, keepdim=True) + epsilon).sqrt() * self.w[f"{path}.weight"]


class Gemma2(Llama):
    """Wide heads, capped scores and logits, a window in the first layer; a norm after each branch."""

    size = 16
    activation = staticmethod(lambda x: F.gelu(x, approximate="tanh"))
    mlp_norm = "pre_feedforward_layernorm"

    def embed(self, ids: Tensor) -> Tensor:
        return super().embed(ids) * math.sqrt(32)

    def total(self, seen: Written) -> Tensor:
        """A layer's heads join the stream together, through the norm of what is seen of them."""
        stream = seen["input"]
        for layer in range(2):
            heads = [value for name, value in seen.items() if name.startswith(f"{layer}.head")]
            if heads:
                joined = torch.stack(heads).sum(0)
                stream = stream + self.norm(f"model.layers.{layer}.post_attention_layernorm", joined)
            stream = stream + seen.get(f"{layer}.mlp", torch.zeros_like(stream))
        return stream

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        return self.norm(f"model.layers.{layer}.post_feedforward_layernorm", super().mlp(layer, stream))

    def capped(self, scores: Tensor) -> Tensor:
        return 50 * (scores / 50).tanh()

    def window(self, layer: int) -> float:
        return 4 if layer == 0 else math.inf

    def unembed(self, stream: Tensor) -> Tensor:
        return 2 * (super().unembed(stream) / 2).tanh()

    def norm(self, path: str, x: Tensor) -> Tensor:
        epsilon: float = self.config.rms_norm_eps
        x = x / (x.pow(2).mean(-1, keepdim=True) + epsilon).sqrt()
        return x * (1 + self.w[f"{path}.weight"])


class NeoX(Expanded):
    """Parallel branches; query, key and value fused head by head; a quarter of each is rotated."""

    parallel = True

    def embed(self, ids: Tensor) -> Tensor:
        return self.w["gpt_neox.embed_in.weight"][ids]

    def _projected(self, layer: int, part: int, head: int, stream: Tensor) -> Tensor:
        first = 3 * self.size * head + self.size * part
        rows = slice(first, first + self.size)
        x = self.norm(f"gpt_neox.layers.{layer}.input_layernorm", stream)
        path = f"gpt_neox.layers.{layer}.attention.query_key_value"
        x = x @ self.w[f"{path}.weight"][rows].T + self.w[f"{path}.bias"][rows]
        return _rotated(x, self.size // 4) if part < 2 else x

    def out(self, layer: int, head: int, mixed: Tensor) -> Tensor:
        columns = slice(self.size * head, self.size * (head + 1))
        return mixed @ self.w[f"gpt_neox.layers.{layer}.attention.dense.weight"][:, columns].T

    def biases(self, layer: int) -> Tensor:
        return self.w[f"gpt_neox.layers.{layer}.attention.dense.bias"]

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        path = f"gpt_neox.layers.{layer}"
        x = self.norm(f"{path}.post_attention_layernorm", stream)
        x = F.gelu(x @ self.w[f"{path}.mlp.dense_h_to_4h.weight"].T + self.w[f"{path}.mlp.dense_h_to_4h.bias"])
        return x @ self.w[f"{path}.mlp.dense_4h_to_h.weight"].T + self.w[f"{path}.mlp.dense_4h_to_h.bias"]

    def unembed(self, stream: Tensor) -> Tensor:
        return self.norm("gpt_neox.final_layer_norm", stream) @ self.w["unembedding"].T


EXPANDED: Mapping[str, type[Expanded]] = {"gpt2": Expanded, "llama": Llama, "gpt_neox": NeoX, "gemma2": Gemma2}


def _rotated(x: Tensor, size: int) -> Tensor:
    """Rotary positions on the first `size` channels, the first half of them paired with the second."""
    half = size // 2
    angles = torch.arange(x.shape[1])[:, None] * 10000.0 ** -(torch.arange(half) / half)
    first, second, rest = x[..., :half], x[..., half:size], x[..., size:]
    turned = (first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin())
    return torch.cat([*turned, rest], -1)
