"""Transcoders of all layers of a model: what replaces its MLPs, read from circuit-tracer's folders and written as one.

    a_l = act(W_enc_l x_l + b_enc_l),   y_m = sum over l <= m of a_l W_dec_{l -> m} + b_dec_m (+ W_skip_m x_m)

A feature reads at its own layer. A transcoder of one layer writes there and nowhere else; a cross-layer one (Ameisen et
al. 2025) writes to every later layer too. The first kind is the second with nothing but decoders l -> l.

A folder has `config.yaml`, which names the model and the two hooks, and `layer_N.safetensors` for each layer, or the
files of cross-layer transcoders (see `crossing`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from subcircuit.errors import DataError, ResourceError, UsageError
from subcircuit.features.crossing import read_crossing, write_crossing
from subcircuit.features.dictionary import Dictionary
from subcircuit.features.folders import CROSSING, TRACER, read_dictionary

__all__ = ["CONFIG", "READS", "WRITES", "Decoding", "Transcoders", "read_transcoders", "write_transcoders"]

READS = {
    "hook_resid_mid": "the stream that the MLP branch takes in, before its norm",
    "mlp.hook_in": "the same after the norm",
}
WRITES = {
    "hook_mlp_out": "what the MLP branch adds to the stream",
    "mlp.hook_out": "the same before the norm that ends the branch, where there is one",
}
CONFIG = "config.yaml"
BLOCK = re.compile(r"^blocks\.\d+\.")


@dataclass(frozen=True)
class Transcoders:
    """Layer by layer, none left out. Raises DataError when they do not belong together.

    No layer's input is centred: what `b_dec` would take off is folded into the encoder's bias.
    """

    layers: tuple[Dictionary, ...]
    reads: str  # a hook of READS
    writes: str  # a hook of WRITES
    model: str = ""  # as the maker spells it
    scan: str = ""  # what Neuronpedia calls the model and its transcoders
    # of cross-layer ones: what the features of each layer write to the layers after it, the next one first
    onward: tuple[Float[Tensor, "feature later width"], ...] = ()

    def __post_init__(self) -> None:
        for what, hook, known in (("reads", self.reads, READS), ("writes", self.writes, WRITES)):
            if hook not in known:
                raise DataError(
                    f"these transcoders' {what[:-1]} hook is '{hook}', which no MLP is replaced at",
                    "; ".join(f"{name}: {text}" for name, text in known.items()),
                )
        if not self.layers:
            raise DataError("there are no transcoders", "give one per layer")
        widths = {(each.width, each.decoder.shape[1]) for each in self.layers}
        if len(widths) > 1:
            raise DataError(f"the transcoders differ in width: {sorted(widths)}", "take those of one model")
        expected = [(len(own), len(self) - 1 - layer, own.decoder.shape[1]) for layer, own in enumerate(self.layers)]
        found = [tuple(each.shape) for each in self.onward]
        if self.onward and found != expected:
            raise DataError(
                f"the decoders into later layers are {found}; {expected} was expected, (feature, layer, width)",
                "a feature of a cross-layer transcoder writes to every layer from its own to the last",
            )

    @classmethod
    def of(cls, dictionaries: Sequence[Dictionary], *, onward: Sequence[Tensor] = (), scan: str = "") -> "Transcoders":
        """Dictionaries of all layers, from the first to the last. Raises DataError for other hooks or a gap."""
        named = {(_hook(each.reads), _hook(each.writes), each.model) for each in dictionaries}
        if len(named) > 1:
            raise DataError(f"the transcoders differ in hooks or model: {sorted(named)}", "take those of one model")
        places = [index if each.layer is None else each.layer for index, each in enumerate(dictionaries)]
        if places != list(range(len(dictionaries))):
            raise DataError(f"the transcoders are of layers {places}", "give one for every layer, in their order")
        reads, writes, model = next(iter(named), ("", "", ""))
        return cls(tuple(map(_uncentred, dictionaries)), reads, writes, model, scan, tuple(onward))

    def __len__(self) -> int:
        """How many layers there are."""
        return len(self.layers)

    def __getitem__(self, layer: int) -> Dictionary:
        return self.layers[layer]

    @property
    def features(self) -> int:
        """Of all layers together."""
        return sum(map(len, self.layers))

    def reach(self, layer: int) -> range:
        """The layers that this layer's features write to, from their own on."""
        return range(layer, len(self) if self.onward else layer + 1)

    def decoder(self, layer: int, into: int) -> Float[Tensor, "feature width"]:
        """What each feature of a layer writes to a layer that it reaches."""
        return self.layers[layer].decoder if layer == into else self.onward[layer][:, into - layer - 1]

    def to(self, device: torch.device | str) -> "Transcoders":
        """On another device; themselves where they are there already."""
        if all(each.encoder.device == torch.device(device) for each in self.layers):
            return self
        layers = tuple(_moved(each, device) for each in self.layers)
        return replace(self, layers=layers, onward=tuple(each.to(device) for each in self.onward))


class Decoding:
    """What stands for each MLP's output, asked for layer by layer: features are handed on to where else they write."""

    def __init__(self, transcoders: Transcoders) -> None:
        self._transcoders = transcoders
        self._sent: dict[int, Tensor] = {}

    def __call__(
        self, layer: int, features: Float[Tensor, "*batch feature"], x: Float[Tensor, "*batch width"]
    ) -> Float[Tensor, "*batch width_out"]:
        """Of this layer, which follows the last one asked for; `x` is what its transcoder reads."""
        given = self._transcoders[layer].decode(features, x)
        if layer in self._sent:
            given = given + self._sent.pop(layer)
        for later in self._transcoders.reach(layer)[1:]:
            sent = features @ self._transcoders.decoder(layer, later)
            self._sent[later] = self._sent[later] + sent if later in self._sent else sent
        return given


def read_transcoders(folder: Path) -> Transcoders:
    """The transcoders in a folder of circuit-tracer, of one layer each or cross-layer, in float32.

    Raises UsageError for a folder that has none, DataError for a missing layer, hooks that are not an MLP's or files
    that cannot be read, UnsupportedModel for a computation that is not known here.
    """
    layers = sorted(int(path.stem.removeprefix("layer_")) for path in folder.glob(TRACER))
    crossing = any(folder.glob(CROSSING))
    if not layers and not crossing:
        raise UsageError(
            f"{folder} holds no transcoders: there is no {TRACER} and no {CROSSING} in it",
            "give a folder of circuit-tracer, or write one: subcircuit.features.transcoders.write_transcoders",
        )
    config = _config(folder / CONFIG)
    onward: Sequence[Tensor] = ()
    if crossing:
        dictionaries, onward = read_crossing(folder, config)
    else:
        dictionaries = [read_dictionary(folder, layer) for layer in layers]
    measured = config.get("measured", [])
    told = [replace(each, expected=facts) for each, facts in zip(dictionaries, measured, strict=False)]
    return Transcoders.of(told or dictionaries, onward=onward, scan=str(config.get("scan") or ""))


def write_transcoders(transcoders: Transcoders, folder: Path, about: Mapping[str, Any] | None = None) -> None:
    """Write a folder as circuit-tracer reads it; `about` goes into its configuration.

    Raises ResourceError when it cannot be written, UnsupportedModel for cross-layer transcoders that are topk.
    """
    config = {
        "model_name": transcoders.model,
        "model_kind": "cross_layer_transcoder" if transcoders.onward else "transcoder_set",
        "feature_input_hook": transcoders.reads,
        "feature_output_hook": transcoders.writes,
        "scan": transcoders.scan,
        **({} if transcoders.onward else {"transcoders": [_file(layer) for layer in range(len(transcoders))]}),
        **({"measured": [dict(each.expected) for each in transcoders.layers]} if transcoders[0].expected else {}),
        **(about or {}),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if transcoders.onward:
            write_crossing(transcoders.layers, transcoders.onward, folder)
        else:
            for layer, dictionary in enumerate(transcoders.layers):
                save_file(_tensors(dictionary), folder / _file(layer))
        (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise ResourceError(f"{folder} cannot be written to: {error.strerror}", "give another folder") from error


def _tensors(dictionary: Dictionary) -> dict[str, Tensor]:
    found = {
        "W_enc": dictionary.encoder,
        "W_dec": dictionary.decoder,
        "b_enc": dictionary.encoder_bias,
        "b_dec": dictionary.decoder_bias,
    }
    if dictionary.activation == "topk":
        found["k"] = torch.tensor(dictionary.k)
    if dictionary.threshold is not None:
        found["activation_function.threshold"] = dictionary.threshold
    if dictionary.skip is not None:
        found["W_skip"] = dictionary.skip
    return {name: tensor.contiguous().clone() for name, tensor in found.items()}


def _uncentred(dictionary: Dictionary) -> Dictionary:
    """The same function of its input, with nothing taken off it."""
    if not dictionary.centred:
        return dictionary
    bias = dictionary.encoder_bias - dictionary.encoder @ dictionary.decoder_bias
    return replace(dictionary, encoder_bias=bias, centred=False)


def _moved(dictionary: Dictionary, device: torch.device | str) -> Dictionary:
    tensors: dict[str, Any] = {
        key: value.to(device) for key, value in vars(dictionary).items() if torch.is_tensor(value)
    }
    return replace(dictionary, **tensors)


def _config(path: Path) -> dict[str, Any]:
    try:
        return dict(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing, so nothing says where the transcoders read", "fetch it again") from error
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise DataError(f"{path} is not a configuration: {error}", "fetch it again") from error


def _file(layer: int) -> str:
    return f"layer_{layer}.safetensors"


def _hook(name: str) -> str:
    """A hook's name without its layer."""
    return BLOCK.sub("", name)
