"""Masks that differ from position to position: which part a token plays in a pair of prompts, and gates by part.

Parts are what prompts of different lengths have in common: the token that is judged, those in which the two prompts
differ, and the rest. Prompts of one length can have a gate for each token instead.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.errors import DataError, UnknownName, UsageError
from subcircuit.tasks._base import Pairs

__all__ = ["PARTS", "check_positions", "parts_of", "placed", "places"]

PARTS = ("judged", "changed", "rest")  # a token that is judged and changed is of the first
WHOLE, EACH = "all", "each"


def check_positions(positions: str) -> None:
    """Raises UnknownName for a part that there is not, UsageError for one that is given twice."""
    if positions in (WHOLE, EACH):
        return
    names = positions.split(",")
    for name in names:
        if name not in PARTS:
            raise UnknownName("position", name, [WHOLE, EACH, *PARTS])
    if len({*names}) < len(names):
        raise UsageError(f"positions are '{positions}'", "give each of them once")


def parts_of(positions: str, pairs: Pairs) -> tuple[str, ...]:
    """The parts that have gates of their own, by name; none where a gate is for all positions.

    Raises DataError where each token is to have its own, and prompts are of several lengths.
    """
    if positions == WHOLE:
        return ()
    if positions != EACH:
        return tuple(positions.split(","))
    lengths = pairs.clean.lengths.unique().tolist()
    if len(lengths) > 1:
        raise DataError(
            f"the prompts have {lengths[0]} to {lengths[-1]} tokens, so that their positions have no common number",
            f"give --positions {','.join(PARTS)}, or prompts of one length",
        )
    return tuple(map(str, range(lengths[0])))


def places(pairs: Pairs, parts: Sequence[str]) -> Int[Tensor, "pair pos"]:
    """The number of each token's part; `len(parts)` where it has none. Raises DataError for prompts too long."""
    clean, none = pairs.clean, len(parts)
    if parts[0].isdigit():
        if int(clean.lengths.min()) != none or int(clean.lengths.max()) != none:
            row = int((clean.lengths != none).nonzero()[0, 0])
            raise DataError(
                f"row {row} has {int(clean.lengths[row])} tokens, and the circuit has gates for {none} positions",
                "give prompts of that length",
            )
        return torch.arange(none).repeat(len(pairs), 1)
    judged = torch.zeros_like(clean.mask).scatter(1, clean.at[:, None], True)
    changed = (clean.ids != pairs.corrupt.ids) & clean.mask & ~judged
    where = {"judged": judged, "changed": changed, "rest": clean.mask & ~judged & ~changed}
    found = torch.full(clean.ids.shape, none)
    for number, part in enumerate(parts):
        found[where[part]] = number
    return found


def placed(gate: Float[Tensor, "*row part unit"], where: Int[Tensor, "row pos"]) -> Float[Tensor, "row pos unit"]:
    """Gates by part as gates by position; 1 at positions of no part."""
    whole = torch.cat([gate, torch.ones_like(gate[..., :1, :])], -2)
    return whole[where] if gate.dim() == 2 else whole[torch.arange(len(where))[:, None], where]
