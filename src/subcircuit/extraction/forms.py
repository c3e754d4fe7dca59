"""Cut layers as a configuration and weights that transformers can load.

`compact`: every layer has its own size (`subcircuit.compact`). `dense`: the stock architecture with smaller numbers,
the same in all layers; it is asked, without weights, what it would take, and whatever it has no place for is refused.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.pytorch_utils import Conv1D

from subcircuit.compact import PREFIX
from subcircuit.errors import UnsupportedModel
from subcircuit.extraction.plan import Open, compact_plan, dense_plan
from subcircuit.extraction.weights import CutLayer, Projection, Values, cut_layer
from subcircuit.sites import Kind
from subcircuit.subject import Subject

__all__ = ["MODULE", "Checkpoint", "Form", "as_compact", "as_dense"]

Form = Literal["compact", "dense"]
Weights = dict[str, Tensor]
MODULE = "modeling_compact"  # the file beside a compact model's weights


@dataclass(frozen=True)
class Checkpoint:
    """What `config.json` and `model.safetensors` will hold."""

    config: dict[str, Any]
    weights: Weights


def as_compact(subject: Subject, gates: Open, values: Values) -> Checkpoint:
    """Every layer with its own numbers of heads and neurons; branches of which nothing is left are one vector."""
    plans = compact_plan(subject, gates)
    layers = [cut_layer(subject, at, gates, values, plan) for at, plan in enumerate(plans)]
    weights = _outside(subject)
    for at, layer in enumerate(layers):
        weights |= {f"{_prefix(subject)}{at}.{name}": value for name, value in _compact_layer(subject, at, layer)}
    config, stock = _plain(subject.model.config), type(subject.model).__name__
    kind = type(subject.model.config).__name__
    config |= {
        "model_type": PREFIX + str(config["model_type"]),
        "architectures": [f"Compact{stock}"],
        "auto_map": {"AutoConfig": f"{MODULE}.Compact{kind}", "AutoModelForCausalLM": f"{MODULE}.Compact{stock}"},
        "compact": [_entry(subject, at, layer) for at, layer in enumerate(layers)],
    }
    return Checkpoint(config, weights)


def as_dense(subject: Subject, gates: Open, values: Values) -> Checkpoint:
    """The stock architecture; heads go where it lets all layers have fewer.

    Raises UnsupportedModel where it has no bias for the means of what is off, naming the place.
    """
    for cut_heads in (True, False):
        plans = dense_plan(subject, gates, cut_heads=cut_heads)
        layers = [cut_layer(subject, at, gates, values, plan) for at, plan in enumerate(plans)]
        kept, layers = _without_empty(subject, layers)
        config = _smaller(subject, kept, layers, cut_heads)
        expected = _expected(config)
        weights = _outside(subject)
        for place, (at, layer) in enumerate(zip(kept, layers, strict=True)):
            weights |= {f"{_prefix(subject)}{place}.{name}": value for name, value in _dense_layer(subject, at, layer)}
        if expected is not None and _same_shapes(weights, expected):
            return Checkpoint(_plain(config), _fitted(subject, weights, expected))
    raise UnsupportedModel(
        f"{subject.family_name} has no dense form of this circuit: its shapes do not divide", "use --form compact"
    )


def _compact_layer(subject: Subject, at: int, layer: CutLayer) -> list[tuple[str, Tensor]]:
    away = (*layer.constants, *layer.gone, *layer.projections)
    stock = subject.module(at, "").state_dict()
    found = [(name, value) for name, value in stock.items() if not name.startswith(tuple(f"{path}." for path in away))]
    for path, projection in layer.projections.items():
        if not path.startswith(tuple(f"{branch}." for branch in layer.constants)):
            found += _stored(subject, subject.module(at, path), path, projection)
    return found + [(f"{path}.value", value.to(subject.dtype)) for path, value in layer.constants.items()]


def _dense_layer(subject: Subject, at: int, layer: CutLayer) -> list[tuple[str, Tensor]]:
    away = tuple(f"{path}." for path in layer.projections)
    found = [(name, value) for name, value in subject.module(at, "").state_dict().items() if not name.startswith(away)]
    for path, projection in layer.projections.items():
        found += _stored(subject, subject.module(at, path), path, projection)
    return found


def _stored(subject: Subject, module: nn.Module, path: str, projection: Projection) -> list[tuple[str, Tensor]]:
    """A projection's tensors in the layout and precision of the module it comes from."""
    transposed = projection.weight.T if isinstance(module, Conv1D) else projection.weight
    found = [(f"{path}.weight", transposed.to(subject.dtype).contiguous())]
    bias = projection.bias
    if bias is None and isinstance(module, Conv1D):  # which always has one
        bias = projection.weight.new_zeros(len(projection.weight))
    return found if bias is None else [*found, (f"{path}.bias", bias.to(subject.dtype))]


def _entry(subject: Subject, at: int, layer: CutLayer) -> dict[str, Any]:
    """A layer of `config.compact`."""
    shapes = {}
    for path, projection in layer.projections.items():
        outputs, inputs = projection.weight.shape
        shape = [inputs, outputs, projection.bias is not None]
        old = Projection.of(subject.module(at, path))
        if shape != [old.weight.shape[1], old.weight.shape[0], old.bias is not None]:
            shapes[path] = shape
    return {
        "heads": len(layer.plan.heads),
        "kv_heads": len(layer.plan.groups),
        "neurons": len(layer.plan.neurons),
        "width": subject.units(Kind.MLP_OUT),
        "shapes": {path: shape for path, shape in shapes.items() if path.rpartition(".")[0] not in layer.constants},
        "constants": list(layer.constants),
        "gone": list(layer.gone),
    }


def _without_empty(subject: Subject, layers: Sequence[CutLayer]) -> tuple[list[int], list[CutLayer]]:
    """Layers of which something stays, by their number; what the others add goes to the bias before them.

    The first layers stay where they add something: what comes before them is the embedding, which may be tied.
    """
    kept: list[int] = []
    found: list[CutLayer] = []
    for at, layer in enumerate(layers):
        added = torch.stack(list(layer.constants.values())).sum(0) if len(layer.constants) == 2 else None
        movable = added is not None and (not added.any() or (bool(found) and not subject.family.post_norms))
        if added is None or not movable:
            kept.append(at)
            found.append(layer)
        elif added.any():
            found[-1] = _adding(subject, found[-1], added)
    return kept, found


def _adding(subject: Subject, layer: CutLayer, vector: Tensor) -> CutLayer:
    path = subject.family.taps[Kind.NEURON].module
    out = layer.projections[path]
    bias = vector if out.bias is None else out.bias + vector
    return CutLayer(layer.plan, {**layer.projections, path: Projection(out.weight, bias)}, layer.constants, layer.gone)


def _smaller(subject: Subject, kept: Sequence[int], layers: Sequence[CutLayer], cut_heads: bool) -> PretrainedConfig:
    """The stock configuration with the smaller numbers."""
    taps = subject.family.taps
    config: PretrainedConfig = copy.deepcopy(subject.model.config)
    plan = layers[0].plan
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[at] for at in kept]
    setattr(config, "n_inner" if hasattr(config, "n_inner") else "intermediate_size", len(plan.neurons))
    if cut_heads:
        config.head_dim = subject.layout.channels
        config.num_attention_heads = len(plan.heads)
        if hasattr(config, "num_key_value_heads"):
            config.num_key_value_heads = len(plan.groups)
    for flag, path in (("attention_bias", taps[Kind.HEAD].module), ("mlp_bias", taps[Kind.NEURON].module)):
        if hasattr(config, flag) and any(layer.projections[path].bias is not None for layer in layers):
            setattr(config, flag, True)
    return config


def _expected(config: PretrainedConfig) -> dict[str, torch.Size] | None:
    """The shapes of a stock model of this configuration; None where it refuses the numbers."""
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except ValueError:
        return None
    return {name: value.shape for name, value in model.state_dict().items()}


def _same_shapes(weights: Weights, expected: Mapping[str, torch.Size]) -> bool:
    return all(value.shape == expected.get(name, value.shape) for name, value in weights.items())


def _fitted(subject: Subject, weights: Weights, expected: Mapping[str, torch.Size]) -> Weights:
    """The weights that the architecture takes, its further biases zero. Raises UnsupportedModel."""
    homeless = [name for name, value in weights.items() if name not in expected and value.any()]
    if homeless:
        raise UnsupportedModel(
            f"{subject.family_name} has no {homeless[0]}, where the means of what is off would go "
            f"({len(homeless)} such places)",
            "use --form compact, or --reference zero",
        )
    weights = {name: value for name, value in weights.items() if name in expected}
    prefix = _prefix(subject)
    lacking = {name: shape for name, shape in expected.items() if name.startswith(prefix) and name not in weights}
    return weights | {name: torch.zeros(shape, dtype=subject.dtype) for name, shape in lacking.items()}


def _outside(subject: Subject) -> Weights:
    """Everything but the layers, tied weights once."""
    prefix, seen, found = _prefix(subject), set(), {}
    for name, value in subject.model.state_dict().items():
        if not name.startswith(prefix) and value.data_ptr() not in seen:
            seen.add(value.data_ptr())
            found[name] = value
    return found


def _prefix(subject: Subject) -> str:
    """What the names of the layers' weights begin with."""
    return next(f"{name}." for name, each in subject.model.named_modules() if each is subject.layout.layers)


def _plain(config: PretrainedConfig) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return plain
