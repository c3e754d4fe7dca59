"""Dictionaries as folders: `cfg.json` and `sae_weights.safetensors`, in the form of SAELens.

SAELens loads an autoencoder of these from disk as it is. A transcoder is written alike, with `hook_name_out`; SAELens
knows no topk transcoders, `read_dictionary` does.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from subcircuit.errors import UsageError
from subcircuit.features.dictionary import Dictionary
from subcircuit.features.folders import SAELENS

__all__ = ["write_dictionary"]

ARCHITECTURES = {"relu": "standard", "topk": "topk", "jumprelu": "jumprelu"}


def write_dictionary(dictionary: Dictionary, folder: Path, about: Mapping[str, Any] | None = None) -> None:
    """Write it; `about` goes into the metadata. Raises UsageError for a dictionary with a skip path."""
    if dictionary.skip is not None:
        raise UsageError("a transcoder with a skip path has no such folder", "leave the skip path out")
    tensors = {
        "W_enc": dictionary.encoder.T.contiguous(),
        "W_dec": dictionary.decoder.contiguous(),
        "b_enc": dictionary.encoder_bias.contiguous(),
        "b_dec": dictionary.decoder_bias.contiguous(),
    }
    if dictionary.threshold is not None:
        tensors["threshold"] = dictionary.threshold.contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / SAELENS)
    (folder / "cfg.json").write_text(json.dumps(_config(dictionary, about or {}), indent=1) + "\n", encoding="utf-8")


def _config(dictionary: Dictionary, about: Mapping[str, Any]) -> dict[str, Any]:
    out = {"d_out": dictionary.decoder.shape[1]} if dictionary.writes != dictionary.reads else {}
    metadata = {"model_name": dictionary.model, "hook_name": dictionary.reads}
    if dictionary.writes != dictionary.reads:
        metadata["hook_name_out"] = dictionary.writes
    return {
        "architecture": ARCHITECTURES[dictionary.activation],
        "d_in": dictionary.width,
        "d_sae": len(dictionary),
        **out,
        **({"k": dictionary.k} if dictionary.activation == "topk" else {}),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": dictionary.centred,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if dictionary.reads.endswith("hook_z") else "none",
        "metadata": {**metadata, "measured": dict(dictionary.expected), **about},
    }
