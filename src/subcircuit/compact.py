"""Transformers whose layers differ in size: the stock architecture, with every layer cut to what it needs.

`config.compact` has an entry per layer: `heads`, `kv_heads` and `neurons`; `shapes`, the inputs, outputs and bias of
each projection that was cut; `constants`, branches that have become one vector; and `gone`, norms that nothing reads.
This file needs torch and transformers alone. It lies beside the weights of a compact checkpoint, and
`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)` loads it from there.

A class `CompactLlamaForCausalLM`, `CompactLlamaConfig` and so on is made of transformers' own when it is asked for.
"""

import copy
from functools import cache
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.pytorch_utils import Conv1D

__all__ = ["PREFIX", "Constant", "compact_class"]

PREFIX = "compact_"  # before the model type of the architecture that was cut
CLASS = "Compact"  # before its class names


class Constant(nn.Module):
    """A branch that adds the same vector everywhere: what its units add on average."""

    def __init__(self, width: int, layer: int | None) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(width))
        self.layer = layer  # of an attention branch

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The vector at every position; of an attention branch, without weights."""
        out = self.value.expand_as(hidden_states)
        if self.layer is None:
            return out
        for past in (each for each in (*args, *kwargs.values()) if isinstance(each, Cache)):
            blank = hidden_states.new_zeros(len(out), 1, out.shape[1], 1)  # a cache counts its tokens by its keys
            past.update(blank, blank, self.layer)
        return out, None


class Cut(nn.Module):
    """Mixed in before a stock model: cuts the layers when they have been made."""

    base_model: Any

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        layers = next(each for each in self.base_model.children() if isinstance(each, nn.ModuleList))
        for layer, sizes in zip(layers, config.compact, strict=True):
            _cut(layer, sizes)


def _cut(layer: nn.Module, sizes: dict[str, Any]) -> None:
    for path, (inputs, outputs, bias) in sizes["shapes"].items():
        old = layer.get_submodule(path)
        new = Conv1D(outputs, inputs) if isinstance(old, Conv1D) else nn.Linear(inputs, outputs, bias=bias)
        layer.set_submodule(path, new)
    for module in layer.modules():
        if hasattr(module, "layer_idx") and sizes["heads"]:
            _regroup(module, sizes["heads"], sizes["kv_heads"])
    for path in sizes["constants"]:
        index = getattr(layer.get_submodule(path), "layer_idx", None)
        layer.set_submodule(path, Constant(sizes["width"], index))
    for path in sizes["gone"]:
        layer.set_submodule(path, nn.Identity())


def _regroup(attention: Any, heads: int, groups: int) -> None:
    """Tell an attention module of a stock architecture how many heads it has."""
    known = {
        "num_heads": heads,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "num_key_value_groups": heads // groups,
        "split_size": heads * getattr(attention, "head_dim", 0),  # GPT-2: the width of each of q, k and v
    }
    for name in known.keys() & vars(attention).keys():
        setattr(attention, name, known[name])
    if hasattr(attention, "qkv_proj"):  # Phi-3 cuts its projection by the configuration's number of heads
        attention.config = copy.copy(attention.config)
        attention.config.num_attention_heads = heads


@cache
def compact_class(stock: str) -> type[Any]:
    """The compact form of a class of transformers, by its name. Raises AttributeError for a name that it has not."""
    base = getattr(transformers, stock)
    if issubclass(base, PreTrainedModel):
        made = {"config_class": compact_class(base.config_class.__name__)}
        return type(CLASS + stock, (Cut, base), {"__module__": __name__, **made})
    return type(CLASS + stock, (base,), {"__module__": __name__, "model_type": PREFIX + base.model_type})


def __getattr__(name: str) -> type[Any]:
    if not name.startswith(CLASS):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return compact_class(name.removeprefix(CLASS))
