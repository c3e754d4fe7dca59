"""Taking a direction out of a model's states at a layer, and running on from there.

    h' = h - g ((h - m) . v) v

`v` has length 1 and `m` is the mean of all states: without it, what goes is mostly the mean, which all directions of
uncentred members share. `g` 1 is a projection. Other directions can be made to move the states by as much: `g` is then
the root of the ratio of removed energies.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject

__all__ = ["Removal", "energy", "removed"]


@dataclass(frozen=True)
class Removal:
    """What is taken out, prompt by prompt."""

    directions: Float[Tensor, "prompt width"]  # of length 1; a row of zeros takes nothing out
    where: Bool[Tensor, "prompt pos"]
    mean: Float[Tensor, " width"]  # zeros: uncentred
    gains: Float[Tensor, " prompt"]

    @contextmanager
    def at(self, subject: Subject, layer: int) -> Iterator[None]:
        """Within the block, passes over these very prompts are without it."""

        def edit(act: Tensor) -> Tensor:
            return removed(act[:, :, 0], self)[:, :, None]

        with subject.editing({Site(layer, Kind.RESID): edit}):
            yield


def removed(h: Float[Tensor, "prompt pos width"], removal: Removal) -> Float[Tensor, "prompt pos width"]:
    """The states without it."""
    directions, mean = (part.to(h.device, h.dtype) for part in (removal.directions, removal.mean))
    along = torch.einsum("bpd,bd->bp", h - mean, directions) * removal.where.to(h.device)
    return h - (removal.gains.to(h.device, h.dtype)[:, None] * along)[:, :, None] * directions[:, None]


def energy(
    h: Float[Tensor, "prompt pos width"],
    directions: Float[Tensor, "prompt width"],
    where: Bool[Tensor, "prompt pos"],
    mean: Float[Tensor, " width"],
) -> Float[Tensor, " prompt"]:
    """Squared length of what a projection takes out of each prompt."""
    along = torch.einsum("bpd,bd->bp", h.double() - mean.double(), directions.double())
    return (along.square() * where).sum(1)
