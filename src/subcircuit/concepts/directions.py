"""The directions that a concept's removal is compared with, one for each text."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from subcircuit.concepts.codebook import Codebook
from subcircuit.concepts.framing import Frame
from subcircuit.concepts.reading import Reading
from subcircuit.errors import UsageError

__all__ = ["RANDOM", "Directions", "control_directions", "random_directions", "rival_directions"]

RANDOM = "random direction"

Directions = dict[str, list[Float[Tensor, "text width"]]]  # by kind, a list of draws


def control_directions(
    book: Codebook, frame: Frame, reading: Reading, *, centred: bool, draws: int, seed: int
) -> tuple[Directions, dict[str, str]]:
    """The controls, and why some cannot be had."""
    generator = torch.Generator().manual_seed(seed)
    mine, n = reading.concepts, len(reading.said)
    found: Directions = {RANDOM: random_directions(book, n, draws, seed)}
    absent: dict[str, str] = {}
    if len(book) > 1:
        shifts = [torch.randint(1, len(book), (n,), generator=generator) for _ in range(draws)]
        others = [(mine + shift) % len(book) for shift in shifts]
        found["random code"] = [book.direction(other, centred=centred) for other in others]
    else:
        absent["random code"] = "there is one code"
    opposite = _opposite(reading.said, generator)
    if opposite is None:
        absent["other answer's code"] = "the model gives all texts one answer"
    else:
        found["other answer's code"] = [book.direction(mine[opposite], centred=centred)]
    found["mean"] = [normalize(book.mean, dim=-1).expand(n, -1)]
    if book.classes is None or len(book.classes) != len(frame.labels):
        absent["class means"] = "the texts that were harvested have no labels, or not all of them"
    else:
        found["class means"] = [_class_directions(book.classes, list(frame.labels), reading)]
    return found, absent


def random_directions(book: Codebook, n: int, draws: int, seed: int) -> list[Float[Tensor, "text width"]]:
    """Gaussian ones, so many for each of n texts."""
    generator = torch.Generator().manual_seed(seed)
    return [normalize(torch.randn(n, book.width, generator=generator), dim=-1) for _ in range(draws)]


def rival_directions(
    book: Codebook, rival: Codebook, reading: Reading, *, centred: bool
) -> Float[Tensor, "text width"]:
    """Another codebook's concept of the same words. Raises UsageError when it is of another layer or model."""
    if (rival.about.layer, rival.about.revision) != (book.about.layer, book.about.revision):
        raise UsageError(
            f"the other codebook is of layer {rival.about.layer} of {rival.about.model}, this one of layer "
            f"{book.about.layer} of {book.about.model}",
            "compare codebooks of one layer of one model",
        )
    return rival.direction(reading.coded(rival).concepts, centred=centred)


def _opposite(said: Int[Tensor, " text"], generator: torch.Generator) -> Int[Tensor, " text"] | None:
    """For each text a random one with another answer."""
    if len(said.unique()) < 2:
        return None
    return (said[:, None] != said).float().multinomial(1, generator=generator)[:, 0]


def _class_directions(
    classes: Float[Tensor, "label width"], names: list[str], reading: Reading
) -> Float[Tensor, "text width"]:
    """The mean of what was said, less the mean of the other labels."""
    ordered = classes[[sorted(names).index(name) for name in names]]
    others = (ordered.sum(0) - ordered) / (len(ordered) - 1)
    return normalize(ordered - others, dim=-1)[reading.said]
