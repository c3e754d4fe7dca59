"""Dictionaries from the folders of SAELens, sparsify and circuit-tracer, read straight from their safetensors.

Which of them a folder is, its files tell: SAELens has `sae_weights.safetensors`, sparsify `sae.safetensors`, each with
a `cfg.json`; circuit-tracer has one `layer_N.safetensors` per layer, with a `config.yaml`. What this library does not
compute exactly as its maker does, gated encoders for one, is refused by name, and so is one layer of cross-layer
transcoders, which gives nothing back without the layers before it.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from subcircuit.errors import DataError, UnsupportedModel, UsageError
from subcircuit.features.dictionary import Activation, Dictionary

__all__ = ["CROSSING", "TRACER", "named", "read_dictionary", "read_weights"]

SAELENS, SPARSIFY, TRACER = "sae_weights.safetensors", "sae.safetensors", "layer_*.safetensors"
CROSSING = "W_enc_*.safetensors"  # cross-layer transcoders of circuit-tracer
NUMBER = re.compile(r"(?:^|[._])(\d+)(?=[._]|$)")


def read_dictionary(folder: Path, layer: int | None = None) -> Dictionary:
    """The dictionary in a folder, in float32; of a folder of transcoders, the one of `layer`.

    Raises UsageError for a folder of no known format or a layer that is not there, DataError for files that cannot be
    read or do not fit together, UnsupportedModel for a dictionary whose computation is not known here.
    """
    if (folder / SAELENS).is_file():
        return _saelens(_json(folder / "cfg.json"), read_weights(folder / SAELENS))
    if (folder / SPARSIFY).is_file():
        return _sparsify(_json(folder / "cfg.json"), read_weights(folder / SPARSIFY), folder.name)
    if any(folder.glob(CROSSING)):
        raise UsageError(
            f"{folder} holds cross-layer transcoders, and no layer of them is a dictionary by itself",
            "subcircuit.features.transcoders.read_transcoders takes all of them; so does subcircuit graph",
        )
    layers = {int(path.stem.removeprefix("layer_")): path for path in folder.glob(TRACER)}
    if not layers:
        raise UsageError(
            f"{folder} holds no dictionary: it has none of {SAELENS}, {SPARSIFY}, {TRACER}",
            "give a folder of SAELens, sparsify or circuit-tracer",
        )
    if layer not in layers:
        there = ", ".join(map(str, sorted(layers)))
        raise UsageError(f"{folder} holds transcoders of layers {there}, and layer {layer} was asked for", "give one")
    return _tracer(_yaml(folder / "config.yaml"), read_weights(layers[layer]), layer)


def _saelens(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Dictionary:
    about: dict[str, Any] = {**config, **config.get("metadata", {})}
    architecture = about.get("architecture", "standard")
    known: dict[str, Activation] = {"standard": "relu", "jumprelu": "jumprelu", "topk": "topk"}
    activation = known.get(architecture)
    if architecture == "standard" and about.get("activation_fn_str", about.get("activation_fn", "relu")) == "topk":
        activation = "topk"
    rescaled = [name for name in ("finetuning_scaling_factor", "rescale_acts_by_decoder_norm") if about.get(name)]
    normalised = about.get("normalize_activations") or "none"
    if activation is None or rescaled or normalised != "none":
        what = rescaled[0] if rescaled else f"architecture {architecture}, normalize_activations {normalised}"
        raise UnsupportedModel(
            f"this SAELens dictionary has {what}",
            f"known: architectures {', '.join(known)}, without normalisation and rescaling",
        )
    kept = about.get("k") or (about.get("activation_fn_kwargs") or {}).get("k") or 0
    hook = str(about.get("hook_name", ""))
    return _made(
        weights,
        encoder=named(weights, "W_enc").T.contiguous(),
        activation=activation,
        k=int(kept),
        threshold=weights.get("threshold") if activation == "jumprelu" else None,
        centred=bool(about.get("apply_b_dec_to_input", True)),
        model=str(about.get("model_name", "")),
        reads=hook,
        writes=str(about.get("hook_name_out") or hook),
        layer=about.get("hook_layer", _layer(hook)),
        expected={str(name): float(value) for name, value in (about.get("measured") or {}).items()},
    )


def _sparsify(config: Mapping[str, Any], weights: Mapping[str, Tensor], hook: str) -> Dictionary:
    activation = config.get("activation", "topk")
    if activation != "topk":
        raise UnsupportedModel(f"this sparsify dictionary has the activation {activation}", "known: topk")
    transcodes = bool(config.get("transcode", False))
    return _made(
        {**weights, "b_enc": named(weights, "encoder.bias")},
        encoder=named(weights, "encoder.weight"),
        activation="topk",
        k=int(config.get("k", 0)),
        skip=weights.get("W_skip"),
        centred=not transcodes,
        reads=hook,
        writes=hook,
        layer=_layer(hook),
    )


def _tracer(config: Mapping[str, Any], weights: Mapping[str, Tensor], layer: int) -> Dictionary:
    threshold = weights.get("activation_function.threshold")
    activation = "jumprelu" if threshold is not None else "topk" if "k" in weights else "relu"
    features = len(named(weights, "b_enc"))
    return _made(
        weights,
        encoder=named(weights, "W_enc"),
        activation=cast(Activation, activation),
        k=int(weights["k"]) if activation == "topk" else 0,
        threshold=None if threshold is None else threshold.expand(features).contiguous(),
        skip=weights.get("W_skip"),
        model=str(config.get("model_name", "")),
        reads=str(config.get("feature_input_hook", "")),
        writes=str(config.get("feature_output_hook", "")),
        layer=layer,
    )


def _made(weights: Mapping[str, Tensor], **fields: Any) -> Dictionary:
    """With the tensors that all formats name alike."""
    decoder, encoder_bias, decoder_bias = (named(weights, name) for name in ("W_dec", "b_enc", "b_dec"))
    return Dictionary(decoder=decoder, encoder_bias=encoder_bias, decoder_bias=decoder_bias, **fields)


def named(weights: Mapping[str, Tensor], name: str) -> Tensor:
    """One of them. Raises DataError where it is not there."""
    if name not in weights:
        raise DataError(f"the dictionary has no '{name}'; it has: {', '.join(sorted(weights))}", "fetch it again")
    return weights[name]


def _layer(hook: str) -> int | None:
    """The number in a hook's name: 6 of "blocks.6.hook_resid_post"."""
    found = NUMBER.search(hook)
    return int(found[1]) if found else None


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, in float32. Raises DataError for a broken file, and for numbers that are not finite."""
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path} is not a safetensors file: {error}", "fetch it again") from error
    found = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    for name, tensor in found.items():
        if not torch.isfinite(tensor).all():
            raise DataError(f"{path}: '{name}' holds numbers that are not finite", "fetch it again")
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}", "fetch the folder again, with its cfg.json") from error
    return config


def _yaml(path: Path) -> dict[str, Any]:
    """The configuration of a folder of transcoders; nothing of what is computed depends on it, so it may be absent."""
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}
