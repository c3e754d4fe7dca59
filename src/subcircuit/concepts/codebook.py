"""A codebook: what a hidden state is assigned to, and the direction of each concept in the model's own space.

Of a state `x` the encoder makes `z = (1 - m) u + m LayerNorm(u + B A u + b)` with `u = (x - mean) * scale`, or `u`
itself where there is no encoder, of length 1 where `unit`; the nearest code is its concept. Where there are `offsets`
the codes are features, and the concept is the one of the largest `z . code + offset`. A concept's direction is the mean
of its members in the raw space, less the mean of all states, so that a method's own space never leaves it.

Saved as `codebook.safetensors` and `codebook.json`.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from subcircuit.concepts.quantiser import squared_distances
from subcircuit.errors import DataError, UsageError
from subcircuit.files import atomically

__all__ = ["About", "Codebook", "Encoder"]

WEIGHTS, RECORD = "codebook.safetensors", "codebook.json"
BLOCK = 4096
TIE = 1e-5  # gap of squared distances, over squared norms, below which a row is decided in double precision
RIVALS = 4  # codes that it is decided between
NORM_EPS = 1e-5  # of LayerNorm


class About(BaseModel):
    """What a codebook is of, and how it came out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    settings: dict[str, Any] = Field(default_factory=dict)
    model: str = ""
    revision: str = ""
    dtype: str = Field(default="float32", description="of the model's weights")
    layer: int = Field(default=0, description="the residual stream that enters this layer")
    upper: int | None = Field(default=None, description="the layer that is predicted from the codes")
    asked: int = Field(description="codes that were asked for; those without members are left out")
    states: int = Field(description="that the directions are means of")
    perplexity: float = Field(description="exp of the entropy of the codes' use; as many codes used evenly")
    beyond: float = Field(description="share of the states that lie farther from their code than the threshold")
    seconds: float = 0.0


@dataclass(frozen=True)
class Encoder:
    """An adaptive residual: `(1 - mix) u + mix LayerNorm(u + up down u + bias)`."""

    mix: Float[Tensor, ""]
    down: Float[Tensor, "rank width"]
    up: Float[Tensor, "width rank"]
    bias: Float[Tensor, " width"]
    norm_weight: Float[Tensor, " width"]
    norm_bias: Float[Tensor, " width"]

    def __call__(self, u: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
        inner = u + torch.nn.functional.linear(u @ self.down.T, self.up, self.bias)
        normed = torch.nn.functional.layer_norm(inner, inner.shape[-1:], self.norm_weight, self.norm_bias, NORM_EPS)
        return (1 - self.mix) * u + self.mix * normed


@dataclass(frozen=True)
class Codebook:
    """Codes that all have members."""

    about: About
    codes: Float[Tensor, "code width"]  # in the encoder's space
    mean: Float[Tensor, " width"]  # of all states
    scale: float
    directions: Float[Tensor, "code width"]  # raw space: mean of the members less `mean`
    counts: Int[Tensor, " code"]  # members
    threshold: float  # distance beyond which a state is no member of its nearest code
    unit: bool = False
    encoder: Encoder | None = None
    offsets: Float[Tensor, " code"] | None = None
    classes: Float[Tensor, "label width"] | None = None  # raw mean of each label's texts, labels sorted

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def width(self) -> int:
        return len(self.mean)

    @property
    def digest(self) -> str:
        """Of its directions, by which a file tells the codebook that it is about."""
        return hashlib.sha256(self.directions.float().numpy().astype("<f4").tobytes()).hexdigest()

    def encode(self, x: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
        """The states in the codes' space. Raises DataError for states of another width."""
        if x.shape[-1] != self.width:
            raise DataError(f"the codebook is of states of width {self.width}; these are {x.shape[-1]} wide")
        u = (x - self.mean.to(x.dtype)) * self.scale
        u = u if self.encoder is None else self.encoder(u)
        return torch.nn.functional.normalize(u, dim=-1) if self.unit else u

    @torch.no_grad()
    def assign(self, x: Float[Tensor, "row width"]) -> tuple[Int[Tensor, " row"], Float[Tensor, " row"]]:
        """The nearest code of each state, and its distance; the same whatever else is in the batch.

        Of features the most active one, and minus its activity.
        """
        parts = [self._nearest(part) for part in x.float().split(BLOCK)]
        if not parts:
            return torch.zeros(0, dtype=torch.long), torch.zeros(0)
        return torch.cat([codes for codes, _ in parts]), torch.cat([distances for _, distances in parts])

    def members(self, x: Float[Tensor, "row width"]) -> Int[Tensor, " row"]:
        """The same with -1 for states beyond the threshold."""
        codes, distances = self.assign(x)
        return codes.where(distances <= self.threshold, -1)

    def direction(self, code: int | Int[Tensor, " row"], *, centred: bool = True) -> Float[Tensor, "... width"]:
        """Of length 1; not `centred`: of the members' mean as it is."""
        raw = self.directions[code] if centred else self.directions[code] + self.mean
        return torch.nn.functional.normalize(raw, dim=-1)

    def similar(self, code: int, n: int = 5) -> list[tuple[int, float]]:
        """The codes whose directions point the most alike, with their cosines."""
        cosines = self.direction(torch.arange(len(self))) @ self.direction(code)
        cosines[code] = -torch.inf
        best = cosines.topk(min(n, len(self) - 1))
        return [(int(other), float(value)) for value, other in zip(*best, strict=True)]

    def save(self, folder: Path) -> None:
        """Raises ResourceError."""
        tensors = {"codes": self.codes, "mean": self.mean, "directions": self.directions, "counts": self.counts}
        if self.encoder is not None:
            tensors |= {f"encoder.{name}": value for name, value in vars(self.encoder).items()}
        for name, values in (("classes", self.classes), ("offsets", self.offsets)):
            if values is not None:
                tensors[name] = values
        whole = {name: value.contiguous() for name, value in tensors.items()}
        atomically(folder / WEIGHTS, lambda to: save_file(whole, to))
        record = {
            "about": self.about.model_dump(),
            "scale": self.scale,
            "threshold": self.threshold,
            "unit": self.unit,
        }
        text = json.dumps(record, indent=1) + "\n"
        atomically(folder / RECORD, lambda to: to.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, folder: Path) -> "Codebook":
        """Raises UsageError for a folder without a codebook, DataError for one that cannot be read."""
        if not (folder / RECORD).is_file():
            raise UsageError(f"{folder} holds no codebook", "give a folder that `subcircuit concepts fit` wrote")
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            tensors = load_file(folder / WEIGHTS)
            inner = {name.partition(".")[2]: t for name, t in tensors.items() if name.startswith("encoder.")}
            return cls(
                about=About.model_validate(record["about"]),
                codes=tensors["codes"],
                mean=tensors["mean"],
                scale=float(record["scale"]),
                directions=tensors["directions"],
                counts=tensors["counts"],
                threshold=float(record["threshold"]),
                unit=bool(record["unit"]),
                encoder=Encoder(**inner) if inner else None,
                offsets=tensors.get("offsets"),
                classes=tensors.get("classes"),
            )
        except (OSError, ValueError, KeyError, TypeError, ValidationError, SafetensorError) as error:
            raise DataError(f"the codebook in {folder} cannot be read: {error}", "fit it again") from error

    def _nearest(self, x: Float[Tensor, "row width"]) -> tuple[Tensor, Tensor]:
        z = self.encode(x)
        best = self._away(z).topk(min(RIVALS, len(self)), largest=False)
        codes, distances = best.indices[:, 0].clone(), best.values[:, 0].clone()
        second = best.values[:, min(1, len(self) - 1)]
        # rounding may differ between batches, so it must not decide
        near = (second - distances <= TIE * (z.square().sum(1) + self.codes[codes].square().sum(1))).nonzero()[:, 0]
        if len(near):
            rivals = best.indices[near].sort(1).values
            exact = self._away_exactly(x[near], rivals)
            least = exact.min(1)
            codes[near] = rivals.gather(1, least.indices[:, None])[:, 0]
            distances[near] = least.values.float()
        return codes, distances.sqrt() if self.offsets is None else distances

    def _away(self, z: Float[Tensor, "row width"]) -> Float[Tensor, "row code"]:
        """What the concept has the least of: squared distance, or activity with its sign turned."""
        return squared_distances(z, self.codes) if self.offsets is None else -(z @ self.codes.T + self.offsets)

    def _away_exactly(
        self, x: Float[Tensor, "row width"], codes: Int[Tensor, "row rival"]
    ) -> Float[Tensor, "row rival"]:
        """The same for some codes of each row, in double precision."""
        z, chosen = self._exactly(x)[:, None], self.codes[codes].double()
        if self.offsets is None:
            return (z - chosen).square().sum(-1)
        return -((z * chosen).sum(-1) + self.offsets[codes].double())

    def _exactly(self, x: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
        """`encode` in double precision."""
        u = (x.double() - self.mean.double()) * self.scale
        if self.encoder is not None:
            u = Encoder(**{name: value.double() for name, value in vars(self.encoder).items()})(u)
        return torch.nn.functional.normalize(u, dim=-1) if self.unit else u
