"""Cross-layer transcoders as files of circuit-tracer.

`W_enc_N.safetensors` has the encoder of layer N, its bias and its thresholds, and the bias of what is written there;
`W_dec_N.safetensors` the decoders of its features, (feature, layer, width), into layer N and each one after it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from subcircuit.errors import DataError, UnsupportedModel
from subcircuit.features.dictionary import Dictionary
from subcircuit.features.folders import CROSSING, named, read_weights

__all__ = ["read_crossing", "write_crossing"]

Onward = Float[Tensor, "feature later width"]


def read_crossing(folder: Path, config: Mapping[str, Any]) -> tuple[list[Dictionary], list[Onward]]:
    """Each layer's dictionary, and what its features write to the layers after it. Raises DataError."""
    layers = sorted(int(path.stem.removeprefix("W_enc_")) for path in folder.glob(CROSSING))
    dictionaries, onward = [], []
    for layer in layers:
        decoders = _decoders(folder / f"W_dec_{layer}.safetensors", layer)
        dictionaries.append(_dictionary(read_weights(folder / f"W_enc_{layer}.safetensors"), decoders, config, layer))
        onward.append(decoders[:, 1:])
    return dictionaries, onward


def write_crossing(dictionaries: Sequence[Dictionary], onward: Sequence[Onward], folder: Path) -> None:
    """Write the files of every layer. Raises UnsupportedModel for topk, which they have no word for."""
    if any(each.activation == "topk" for each in dictionaries):
        raise UnsupportedModel(
            "these cross-layer transcoders keep the k largest features, which circuit-tracer's files cannot say",
            "relu and jumprelu can be written",
        )
    for layer, (dictionary, later) in enumerate(zip(dictionaries, onward, strict=True)):
        tensors = {
            "W_enc": dictionary.encoder,
            "b_enc": dictionary.encoder_bias,
            "b_dec": dictionary.decoder_bias,
            "threshold": dictionary.threshold,
            "W_skip": None if dictionary.skip is None else dictionary.skip.T,  # there it is x W_skip
        }
        found = {f"{name}_{layer}": tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
        save_file({name: tensor.clone() for name, tensor in found.items()}, folder / f"W_enc_{layer}.safetensors")
        decoders = later.new_empty(later.shape[0], later.shape[1] + 1, later.shape[2])
        decoders[:, 0], decoders[:, 1:] = dictionary.decoder, later
        save_file({f"W_dec_{layer}": decoders}, folder / f"W_dec_{layer}.safetensors")


def _decoders(path: Path, layer: int) -> Onward:
    if not path.is_file():
        raise DataError(f"{path} is missing, so layer {layer} has an encoder and no decoders", "fetch it again")
    decoders = named(read_weights(path), f"W_dec_{layer}")
    if decoders.ndim != 3 or not decoders.shape[1]:
        raise DataError(
            f"{path}: W_dec_{layer} is {tuple(decoders.shape)}; (feature, layer, width) was expected", "fetch it again"
        )
    return decoders


def _dictionary(weights: Mapping[str, Tensor], decoders: Onward, config: Mapping[str, Any], layer: int) -> Dictionary:
    """The layer's own part: its encoder, and the decoder into the layer itself."""
    encoder, encoder_bias, decoder_bias = (named(weights, f"{name}_{layer}") for name in ("W_enc", "b_enc", "b_dec"))
    threshold, skip = weights.get(f"threshold_{layer}"), weights.get(f"W_skip_{layer}")
    if threshold is not None:
        threshold = threshold.flatten()
        threshold = threshold.repeat(len(encoder)) if len(threshold) == 1 else threshold
    return Dictionary(
        encoder,
        decoders[:, 0],
        encoder_bias,
        decoder_bias,
        "relu" if threshold is None else "jumprelu",
        threshold=threshold,
        skip=None if skip is None else skip.T.contiguous(),
        model=str(config.get("model_name", "")),
        reads=str(config.get("feature_input_hook", "")),
        writes=str(config.get("feature_output_hook", "")),
        layer=layer,
    )
