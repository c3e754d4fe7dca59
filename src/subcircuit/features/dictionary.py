"""A sparse dictionary: a sparse autoencoder, which gives back what it is given, or a transcoder, which gives another.

    f = act(W_enc (x - b_dec) + b_enc),   y = f W_dec + b_dec (+ W_skip x)

with `b_dec` taken off the input only where `centred` says so. `act` is ReLU, the k largest of it (Gao et al. 2024), or
JumpReLU, which is ReLU above a threshold of each feature (Rajamanoharan et al. 2024).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.errors import DataError

__all__ = ["Activation", "Dictionary"]

Activation = Literal["relu", "topk", "jumprelu"]


@dataclass(frozen=True)
class Dictionary:
    """The weights, and where they belong. Raises DataError when their shapes or settings do not fit together."""

    encoder: Float[Tensor, "feature width"]
    decoder: Float[Tensor, "feature width_out"]
    encoder_bias: Float[Tensor, " feature"]
    decoder_bias: Float[Tensor, " width_out"]
    activation: Activation
    k: int = 0  # of topk
    threshold: Float[Tensor, " feature"] | None = None  # of jumprelu
    skip: Float[Tensor, "width_out width"] | None = None  # of transcoders with a linear path beside the features
    centred: bool = False  # the decoder's bias is taken off the input
    model: str = ""  # the model it was trained on, as its maker spells it
    reads: str = ""  # the hook its input was taken at, as its maker spells it
    writes: str = ""  # the hook of its output; of an autoencoder the same
    layer: int | None = None
    # what its maker measured on held-out text, where that is told: fvu, l0, dead (a share), norm (of the input)
    expected: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        features, width = self.encoder.shape
        out = self.decoder.shape[-1]
        shapes: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
            "decoder": (self.decoder, (features, out)),
            "encoder_bias": (self.encoder_bias, (features,)),
            "decoder_bias": (self.decoder_bias, (out,)),
            "threshold": (self.threshold, (features,)),
            "skip": (self.skip, (out, width)),
        }
        for name, (tensor, shape) in shapes.items():
            if tensor is not None and tensor.shape != shape:
                raise DataError(
                    f"the dictionary's {name} is {tuple(tensor.shape)}; its encoder of {features} features of width "
                    f"{width} asks for {shape}",
                    "check that the file's weights belong to one dictionary",
                )
        if self.activation == "topk" and not 0 < self.k <= features:
            raise DataError(f"a topk dictionary of {features} features keeps {self.k}", "give k from 1 to their number")
        if (self.activation == "jumprelu") != (self.threshold is not None):
            there = "no" if self.threshold is None else "a"
            raise DataError(
                f"the activation is {self.activation}, and there is {there} threshold",
                "jumprelu has one threshold per feature, other activations none",
            )
        if self.centred and out != width:
            raise DataError(
                f"a bias of width {out} cannot be taken off an input of width {width}", "leave `centred` off"
            )

    def __len__(self) -> int:
        """How many features there are."""
        return len(self.encoder)

    @property
    def width(self) -> int:
        """Numbers that it reads at a position."""
        return self.encoder.shape[1]

    def encode(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch feature"]:
        """The features of activations, most of them 0. Raises DataError for activations of another width."""
        if x.shape[-1] != self.width:
            raise DataError(
                f"the dictionary reads activations of width {self.width}; these are {x.shape[-1]} wide",
                f"it was trained on '{self.model or 'an unnamed model'}' at '{self.reads or 'an unnamed hook'}'",
            )
        x = x.to(self.encoder.dtype)
        inputs = x - self.decoder_bias if self.centred else x
        before = torch.nn.functional.linear(inputs, self.encoder, self.encoder_bias)
        features = before.relu()
        if self.activation == "topk":
            best = features.topk(self.k, dim=-1)
            return torch.zeros_like(features).scatter(-1, best.indices, best.values)
        return features if self.threshold is None else features * (before > self.threshold)

    def decode(
        self, features: Float[Tensor, "*batch feature"], x: Float[Tensor, "*batch width"] | None = None
    ) -> Float[Tensor, "*batch width_out"]:
        """What the features stand for. A transcoder with a skip path needs the input `x` besides. Raises DataError."""
        found: Tensor = features @ self.decoder + self.decoder_bias
        if self.skip is None:
            return found
        if x is None:
            raise DataError("this transcoder has a skip path, and no input was given", "decode(features, x)")
        return found + x.to(self.skip.dtype) @ self.skip.T

    def fvu(self, x: Float[Tensor, "row width"], y: Float[Tensor, "row width_out"] | None = None) -> float:
        """Fraction of the variance of `y` (of an autoencoder, `x`) left unexplained; 0 = none, 1 = as by the mean."""
        target = x if y is None else y
        left = (target - self.decode(self.encode(x), x)).square().sum()
        return float(left / (target - target.mean(0)).square().sum())
