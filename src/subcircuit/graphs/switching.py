"""Features switched off in a running model: MLPs replaced by transcoders, their errors held, everything else live.

Each layer's transcoder reads the stream as this run has it. Features that are kept have the values it gives them; all
others, active or not, are set to 0, to their mean, or to what the corrupted prompt gives them at the same position,
wherever they write. What the transcoders left out in the plain run is added as it was. With everything kept that is the
model itself.
A feature can also be kept in part: `w` of its own value, and `1 - w` of what stands for it when it is off.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.batching import batched
from subcircuit.errors import DataError, UnknownName
from subcircuit.features.transcoders import Decoding, Transcoders
from subcircuit.graphs.places import Change, Place, changing, read_places, write_places
from subcircuit.graphs.replacement import check_fit
from subcircuit.scores import PerPrompt, judge
from subcircuit.subject import Prompts, Subject
from subcircuit.tasks._base import Pairs

__all__ = ["Ablation", "Keep", "Means", "Switches", "features_on", "mean_features"]

Ablation = Literal["zero", "mean", "counterfactual"]
Keep = Sequence[Bool[Tensor, "#pos feature"] | Float[Tensor, "#pos feature"]]  # layer by layer
Means = Sequence[Float[Tensor, "#pos feature"]]


@dataclass(frozen=True)
class _Recorded:
    """What a plain run gave, layer by layer."""

    reads: list[Float[Tensor, "prompt pos width"]]
    outputs: list[Float[Tensor, "prompt pos width"]]


class Switches:
    """Prompt pairs whose features can be switched off. `tests` counts how often they were.

    Args:
        means: of "mean": the features' means over other prompts (`mean_features`).
        skip: tokens at the start whose features are left to the errors.

    Raises:
        UnknownName for another ablation, DataError for transcoders of another model, or for means that are missing.
    """

    def __init__(
        self,
        subject: Subject,
        transcoders: Transcoders,
        pairs: Pairs,
        *,
        ablation: Ablation = "counterfactual",
        means: Means | None = None,
        skip: int = 1,
        batch_size: int = 256,
    ) -> None:
        check_fit(subject, transcoders)
        if ablation not in get_args(Ablation):
            raise UnknownName("ablation", ablation, get_args(Ablation))
        if ablation == "mean" and means is None:
            raise DataError("there are no means to ablate with", "give means=mean_features(...) of other prompts")
        self.subject, self.transcoders, self.pairs = subject, transcoders.to(subject.device), pairs
        self.ablation, self.skip, self.batch_size, self.tests = ablation, skip, batch_size, 0
        self._means = means
        self._reading = read_places(subject, transcoders.reads)
        self._writing = write_places(subject, transcoders.writes)
        self.full = _plain(subject, pairs.clean, batch_size)
        clean = _recorded(subject, transcoders, pairs.clean, batch_size)
        decoding = Decoding(self.transcoders)
        self._errors = [
            output - decoding(layer, self._encoded(layer, read), read).to(output.dtype)
            for layer, (read, output) in enumerate(zip(clean.reads, clean.outputs, strict=True))
        ]
        corrupted = ablation == "counterfactual"
        self._others = _recorded(subject, transcoders, pairs.corrupt, batch_size).reads if corrupted else None

    @torch.no_grad()
    def logits(self, keep: Keep) -> Float[Tensor, "prompt vocab"]:
        """The judged logits with only these features on."""
        self.tests += 1
        masks = [each.to(self.subject.device) for each in keep]
        found: dict[int, Tensor] = {}

        def run(rows: Tensor) -> None:
            seen: dict[int, Tensor] = {}
            decoding = Decoding(self.transcoders)
            changes: list[tuple[Place, Change]] = []
            for layer, mask in enumerate(masks):
                changes.append((self._reading[layer], _noted(seen, layer)))
                changes.append((self._writing[layer], self._written(layer, mask, rows, seen, decoding)))
            with changing(changes):
                logits = self.subject.logits(self.pairs.clean[rows])
            found.update(zip(rows.tolist(), logits, strict=True))

        batched(run, self.pairs.clean.lengths, self.batch_size)
        return torch.stack([found[row] for row in range(len(self.pairs))])

    def judged(self, keep: Keep) -> PerPrompt:
        """Every metric, prompt by prompt."""
        return judge(self.full, self.logits(keep), self.pairs)

    def _written(self, layer: int, keep: Tensor, rows: Tensor, seen: dict[int, Tensor], decoding: Decoding) -> Change:
        def change(output: Tensor) -> Tensor:
            own = self._encoded(layer, seen[layer])
            size = own.shape[1]
            features = _mixed(keep[:size], own, self._fill(layer, rows, size))
            features[:, : self.skip] = 0
            error = self._errors[layer][rows.to(output.device), :size]
            return decoding(layer, features, seen[layer]).to(output.dtype) + error

        return change

    def _fill(self, layer: int, rows: Tensor, size: int) -> Tensor:
        """What stands for a feature that is off."""
        if self._others is not None:
            return self._encoded(layer, self._others[layer][rows.to(self._others[layer].device), :size])
        if self.ablation == "mean" and self._means is not None:
            return self._means[layer].to(self.subject.device)[:size]
        return torch.zeros((), device=self.subject.device)

    def _encoded(self, layer: int, read: Tensor) -> Tensor:
        features = self.transcoders[layer].encode(read)
        features[:, : self.skip] = 0
        return features


@torch.no_grad()
def mean_features(
    subject: Subject, transcoders: Transcoders, prompts: Prompts, *, by_position: bool, skip: int = 1, batch: int = 256
) -> list[Float[Tensor, "#pos feature"]]:
    """Each feature's mean over prompts, at each position or over all of them that are no padding."""
    mask, reads = _looked_at(prompts, skip), _recorded(subject, transcoders, prompts, batch).reads
    own = mask.to(subject.device)[:, :, None]
    found = []
    for read, transcoder in zip(reads, transcoders.to(subject.device).layers, strict=True):
        features = transcoder.encode(read) * own
        over = (0,) if by_position else (0, 1)
        found.append((features.sum(over) / own.sum(over).clamp(min=1)).view(-1, features.shape[2]))
    return found


@torch.no_grad()
def features_on(
    subject: Subject, transcoders: Transcoders, prompts: Prompts, *, skip: int = 1, batch: int = 256
) -> list[Float[Tensor, "token feature"]]:
    """Layer by layer what every feature does at each token that is no padding, prompt after prompt."""
    mask, reads = _looked_at(prompts, skip), _recorded(subject, transcoders, prompts, batch).reads
    layers = zip(reads, transcoders.to(subject.device).layers, strict=True)
    return [transcoder.encode(read[mask.to(read.device)]).cpu() for read, transcoder in layers]


def _looked_at(prompts: Prompts, skip: int) -> Bool[Tensor, "prompt pos"]:
    mask = prompts.mask.clone()
    mask[:, :skip] = False
    return mask


@torch.no_grad()
def _plain(subject: Subject, prompts: Prompts, batch_size: int) -> Float[Tensor, "prompt vocab"]:
    found: dict[int, Tensor] = {}
    batched(
        lambda rows: found.update(zip(rows.tolist(), subject.logits(prompts[rows]), strict=True)),
        prompts.lengths,
        batch_size,
    )
    return torch.stack([found[row] for row in range(len(prompts))])


@torch.no_grad()
def _recorded(subject: Subject, transcoders: Transcoders, prompts: Prompts, batch_size: int) -> _Recorded:
    """One plain run; positions past a prompt's end hold zeros."""
    places = [*read_places(subject, transcoders.reads), *write_places(subject, transcoders.writes)]
    width = transcoders[0].width
    tables = [torch.zeros(*prompts.ids.shape, width, dtype=subject.dtype, device=subject.device) for _ in places]

    def run(rows: Tensor) -> None:
        seen: dict[int, Tensor] = {}
        with changing([(place, _noted(seen, index)) for index, place in enumerate(places)]):
            subject.logits(prompts[rows])
        for index, table in enumerate(tables):
            table[rows.to(table.device), : seen[index].shape[1]] = seen[index]

    batched(run, prompts.lengths, batch_size)
    return _Recorded(tables[: len(subject)], tables[len(subject) :])


def _mixed(keep: Tensor, own: Tensor, fill: Tensor) -> Tensor:
    return torch.where(keep, own, fill) if keep.dtype == torch.bool else keep * own + (1 - keep) * fill


def _noted(seen: dict[int, Tensor], index: int) -> Change:
    def change(act: Tensor) -> Tensor:
        seen[index] = act
        return act

    return change
